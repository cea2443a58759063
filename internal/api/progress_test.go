package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image"
)

// fakeImages fails a pull before or after its first line, by its name.
type fakeImages struct {
	Images
	got *image.PullRequest
}

func (f fakeImages) Pull(_ context.Context, r image.PullRequest, p image.Progress) error {
	*f.got = r
	switch {
	case strings.HasPrefix(r.Reference, "late"):
		p(jsonstream.Message{Status: "Pulling"})
		return errdefs.ErrUnavailable.WithMessage("the registry hung up")
	case strings.HasPrefix(r.Reference, "early"):
		return errdefs.ErrNotFound.WithMessage("no such image")
	}
	p(jsonstream.Message{Status: "done"})
	return nil
}

// Load says a line for each piece that it reads.
func (f fakeImages) Load(_ context.Context, r io.Reader, _ []ocispec.Platform, _ bool, p image.Progress) error {
	total := 0
	for buf := make([]byte, 64<<10); ; {
		n, err := io.ReadFull(r, buf)
		total += n
		p(jsonstream.Message{Stream: "piece"})
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if total != 1<<20 {
		return errdefs.ErrInvalidArgument.WithMessage("the archive is cut")
	}
	return nil
}

func do(t *testing.T, path, method, url string, body io.Reader, header http.Header) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(method, "http://d"+url, body)
	if err != nil {
		t.Fatal(err)
	}
	for k := range header {
		req.Header.Set(k, header.Get(k))
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

func TestProgress(t *testing.T) {
	var got image.PullRequest
	path := serveUnix(t, Backend{Images: fakeImages{got: &got}})
	for _, tc := range []struct {
		query string
		code  int
		says  string
		ref   string
		all   bool
	}{
		{"fromImage=early&tag=1", 404, `{"message":"no such image"}`, "early:1", false},
		{"fromImage=late&tag=sha256:00", 200, `{"errorDetail":{"code":503,"message":"the registry hung up"},"error":"the registry hung up"}`, "late@sha256:00", false},
		{"fromImage=host:5000/a", 200, `{"status":"done"}`, "host:5000/a", true},
		{"fromImage=a:b", 200, `{"status":"done"}`, "a:b", false},
		{"", 400, "needs fromImage", "", false},
		{"fromImage=a&platform=nonsense", 400, "platform", "", false},
	} {
		got = image.PullRequest{}
		code, body := do(t, path, "POST", "/v1.47/images/create?"+tc.query, nil, nil)
		if code != tc.code || !strings.Contains(body, tc.says) || got.Reference != tc.ref || got.All != tc.all {
			t.Errorf("%s: %d %s %+v", tc.query, code, body, got)
		}
	}
	header := http.Header{registry.AuthHeader: {"eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJ4In0="}}
	if code, _ := do(t, path, "POST", "/images/create?fromImage=a:b", nil, header); code != 200 || got.Auth == nil || got.Auth.Username != "me" {
		t.Errorf("%d %+v", code, got.Auth)
	}
	header.Set(registry.AuthHeader, "%%%")
	if code, body := do(t, path, "POST", "/images/create?fromImage=a:b", nil, header); code != 400 {
		t.Errorf("%d %s", code, body)
	}
}

// Lines written while the archive is read do not cut it.
func TestLoadIsNotCut(t *testing.T) {
	path := serveUnix(t, Backend{Images: fakeImages{}})
	code, body := do(t, path, "POST", "/images/load?quiet=0", strings.NewReader(strings.Repeat("x", 1<<20)), nil)
	if code != 200 || strings.Contains(body, "error") {
		t.Errorf("%d %s", code, body)
	}
}
