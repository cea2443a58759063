package registry

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/registry"
)

// origin is the registry itself of a repository.
func origin(r *Repository) *endpoint { return r.all[len(r.all)-1] }

func words(s string) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		return io.NopCloser(strings.NewReader(s)), int64(len(s)), nil
	}
}

func TestABodyIsSentAgain(t *testing.T) {
	s := &tokens{}
	var got []string
	s.handle = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.String()+" "+r.Header.Get("Content-Type")+" "+string(body))
		w.WriteHeader(http.StatusCreated)
	}
	u := s.registry(t, "u", "p")
	r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p"}})
	resp, err := r.ask(context.Background(), origin(r), request{
		method: http.MethodPut, rest: "blobs/uploads/1", query: url.Values{"digest": {"sha256:1"}}, header: http.Header{"Content-Type": {"text/x"}},
		body: words("hello"), actions: actionPush, scopes: []string{"repository:other:pull"},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := "PUT /v2/x/blobs/uploads/1?digest=sha256%3A1 text/x hello"; strings.Join(got, "|") != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if scope := s.forms[len(s.forms)-1].Get("scope"); scope != "repository:other:pull repository:x:pull repository:x:pull,push" {
		t.Errorf("scope %q", scope)
	}
}

func TestAnUploadElsewhereGetsNoCredentials(t *testing.T) {
	var got []http.Header
	elsewhere := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Clone())
		w.WriteHeader(http.StatusCreated)
	})
	s := &tokens{handle: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", elsewhere.String()+"/upload?state=1")
		w.WriteHeader(http.StatusAccepted)
	}}
	u := s.registry(t, "u", "p")
	r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p"}})
	resp, err := r.ask(context.Background(), origin(r), request{method: http.MethodPost, rest: "blobs/uploads/", actions: actionPush})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := resolveLocation(resp)
	if err != nil {
		t.Fatal(err)
	}
	resp, err = r.ask(context.Background(), origin(r), request{method: http.MethodPut, at: at, body: words("x"), actions: actionPush})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(got) != 1 || got[0].Get("Authorization") != "" || got[0].Get("Content-Length") != "1" {
		t.Errorf("the other host got %v", got)
	}
}

func TestAHostThatDoesNotTakeABody(t *testing.T) {
	hold := make(chan struct{})
	u := server(t, false, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	defer close(hold)
	r := client(t, Config{Patience: 200 * time.Millisecond}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{})
	_, err := r.ask(context.Background(), origin(r), request{method: http.MethodPut, rest: "blobs/uploads/1", body: func() (io.ReadCloser, int64, error) {
		return io.NopCloser(io.LimitReader(zeros{}, 1<<30)), 1 << 30, nil
	}})
	if err == nil || !strings.Contains(err.Error(), "did not answer within 200ms") {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
