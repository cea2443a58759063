package image

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	moby "github.com/moby/moby/api/types/registry"

	"hezi/internal/image/registry"
)

func hub(origin *fake, mirrors ...*fake) registry.Config {
	c := registry.Config{Hub: origin.addr, Patience: 500 * time.Millisecond, MaxAttempts: 2}
	for _, m := range mirrors {
		c.Mirrors = append(c.Mirrors, m.url)
	}
	return c
}

func TestMirrors(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	img := imageOf(t, []entry{file("a", noise(100_000))})
	for _, c := range []struct {
		name string
		bad  func(m *fake) func(w http.ResponseWriter, r *http.Request) bool
		said string
	}{
		{"fails", func(*fake) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }
		}, "is passed over: "},
		{"hangs", func(*fake) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				select {
				case <-hang:
				case <-r.Context().Done():
				}
				return true
			}
		}, "did not answer within 500ms"},
		{"lies about manifests", func(*fake) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/manifests/sha256:") {
					fmt.Fprint(w, "{}")
					return true
				}
				return false
			}
		}, "sent a wrong manifest"},
		{"lies about blobs", func(m *fake) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				rec := httptest.NewRecorder()
				m.real.ServeHTTP(rec, r)
				body := rec.Body.Bytes()
				body[len(body)/2] ^= 0xff
				_, _ = w.Write(body)
				return true
			}
		}, "sent a wrong blob"},
		{"cuts blobs", func(m *fake) func(w http.ResponseWriter, r *http.Request) bool {
			return cutting(m, 1000, func() bool { return false })
		}, "broke off"},
		{"trickles in the middle of a blob", func(m *fake) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				rec := httptest.NewRecorder()
				m.real.ServeHTTP(rec, withoutRange(r))
				body := rec.Body.Bytes()
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				for i, b := range body {
					if _, err := w.Write([]byte{b}); err != nil {
						break
					}
					if i < 1000 {
						continue
					}
					_ = http.NewResponseController(w).Flush()
					select {
					case <-hang:
						return true
					case <-r.Context().Done():
						return true
					case <-time.After(20 * time.Millisecond):
					}
				}
				return true
			}
		}, "is too slow: "},
		{"sends web pages", func(*fake) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				fmt.Fprint(w, "<html><title>Login</title></html>")
				return true
			}
		}, "answered with a web page (\"Login\")"},
	} {
		t.Run(c.name, func(t *testing.T) {
			origin, mirror := newFake(t), newFake(t)
			origin.push("library/x:1", img)
			mirror.push("library/x:1", img)
			mirror.misbehave(c.bad(mirror))
			origin.misbehave(nil)
			s := open(t, hub(origin, mirror))
			var l lines
			if err := s.Pull(context.Background(), PullRequest{Reference: "x:1", Auth: &moby.AuthConfig{Username: "u", Password: "p"}}, l.show); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(l.String(), c.said) || !strings.Contains(l.String(), "Status: Downloaded newer image for x:1") {
				t.Errorf("user was told\n%s", &l)
			}
			mirror.misbehave(nil)
			if err := s.Pull(context.Background(), PullRequest{Reference: "x:1"}, nil); err != nil {
				t.Fatal(err)
			}
			if n := len(mirror.asked("", "")); n != 0 {
				t.Errorf("a failing mirror was asked %d times right after", n)
			}
			nothingHalf(t, s)
		})
	}
	t.Run("all fail", func(t *testing.T) {
		origin, mirror := newFake(t), newFake(t)
		fail := func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(502); return true }
		origin.misbehave(fail)
		mirror.misbehave(fail)
		s := open(t, hub(origin, mirror))
		err := s.Pull(context.Background(), PullRequest{Reference: "x:1"}, nil)
		if !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "received unexpected HTTP status: 502 Bad Gateway from http://"+origin.addr) || !strings.Contains(err.Error(), "mirrors did not help: "+mirror.url) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("serves", func(t *testing.T) {
		origin, mirror := newFake(t), newFake(t)
		mirror.push("library/x:1", img)
		s := open(t, hub(origin, mirror))
		var l lines
		if err := s.Pull(context.Background(), PullRequest{Reference: "x:1"}, l.show); err != nil {
			t.Fatal(err)
		}
		if len(origin.asked("", "")) != 0 || !strings.Contains(l.String(), "Mirror "+mirror.url+" serves this image") {
			t.Errorf("origin was asked, or the user not told:\n%s", &l)
		}
	})
	t.Run("lacks the image", func(t *testing.T) {
		origin, mirror := newFake(t), newFake(t)
		origin.push("library/x:1", img)
		s := open(t, hub(origin, mirror))
		if err := s.Pull(context.Background(), PullRequest{Reference: "x:1"}, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func nothingHalf(t *testing.T, s *Service) {
	t.Helper()
	if got := ingests(t, s); len(got) != 0 {
		t.Errorf("half downloaded: %q", got)
	}
}

func TestCredentialsStayHome(t *testing.T) {
	img := imageOf(t, []entry{file("a", noise(10_000))})
	origin, mirror, elsewhere := newFake(t), newFake(t), newFake(t)
	origin.push("library/x:1", img)
	elsewhere.push("library/x:1", img)
	challenge := func(w http.ResponseWriter) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		return errorJSON(w, 401, "UNAUTHORIZED", "authentication required")
	}
	mirror.misbehave(func(w http.ResponseWriter, r *http.Request) bool { return challenge(w) })
	elsewhere.misbehave(func(w http.ResponseWriter, r *http.Request) bool { return false })
	origin.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); !ok || u != "user" || p != "secret" {
			return challenge(w)
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, elsewhere.url+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	s := open(t, hub(origin, mirror))
	err := s.Pull(context.Background(), PullRequest{
		Reference: "x:1", Auth: &moby.AuthConfig{Username: "user", Password: "secret"}, Headers: map[string][]string{"X-Meta-Secret": {"1"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*fake{mirror, elsewhere} {
		all := f.asked("", "")
		if len(all) == 0 {
			t.Error("a host was not asked at all")
		}
		for _, r := range all {
			if r.Header.Get("Authorization") != "" || r.Header.Get("X-Meta-Secret") != "" {
				t.Errorf("%s %s got %v", r.Method, r.URL, r.Header)
			}
		}
	}
	if r := origin.asked("", "/manifests/"); len(r) == 0 || r[len(r)-1].Header.Get("X-Meta-Secret") != "1" {
		t.Error("the client's headers did not reach the registry")
	}
}
