package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// serving is a registry that has x:latest.
func serving(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v2/" && !strings.HasSuffix(r.URL.Path, "/manifests/latest") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest.FromString(manifestBody).String())
	serveManifest(w)
}

// TestReport has a mirror for each way to fail, and some that serve.
func TestReport(t *testing.T) {
	ca := newAuthority(t)
	old := httptest.NewUnstartedServer(http.HandlerFunc(serving))
	old.TLS = &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "old.example", time.Date(2020, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2020, 3, 4, 0, 0, 0, 0, time.UTC))}}
	old.StartTLS()
	t.Cleanup(old.Close)
	limited := server(t, false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "90")
		w.Header().Set("Ratelimit-Remaining", "0;w=21600")
		w.WriteHeader(429)
	})
	page := server(t, false, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, portal) })
	basic := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if _, p, ok := r.BasicAuth(); ok && p == "right" {
			serving(w, r)
			return
		}
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(401)
	})
	empty := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			w.WriteHeader(404)
		}
	})
	s := &tokens{handle: serving}
	bearer := s.registry(t, "", "")
	dir := t.TempDir()
	for _, host := range []string{"old.example", bearer.Host} {
		if err := os.Mkdir(dir+"/"+host, 0o755); err != nil {
			t.Fatal(err)
		}
		ca.write(t, dir+"/"+host)
		if err := os.Rename(dir+"/"+host+"/ca.pem", dir+"/"+host+"/ca.crt"); err != nil {
			t.Fatal(err)
		}
	}
	cl := client(t, Config{Hub: basic.Host, CertDirs: []string{dir}, Proxy: Proxy{No: "*"}, Mirrors: []string{
		"http://127.0.0.1:1", "old.example", limited.String(), page.String(), empty.String() + "/gone", empty.String(), bearer.String(),
	}})
	cl.current().connect = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "old.example:443" {
			addr = old.Listener.Addr().String()
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	cl.demote(empty.String(), errors.New("it was slow"))
	check := func(name string, auth *registry.AuthConfig, last ...string) []EndpointReport {
		t.Helper()
		rep, err := cl.Test(context.Background(), name, auth)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range rep.Endpoints {
			line := fmt.Sprint(e.URL, ": ", e.Answer, map[bool]string{true: " serves"}[e.Serves], map[bool]string{true: " first"}[e.First])
			got = append(got, strings.TrimSpace(line+" "+e.Login))
			if e.Took <= 0 || e.Detail == "" && e.Answer != "ok" || e.Detail != "" && e.Serves {
				t.Errorf("%+v", e)
			}
		}
		want := append([]string{
			"http://127.0.0.1:1: connection refused",
			"https://old.example: certificate expired on 2020-03-04",
			limited.String() + ": 429 Too Many Requests for 1m30s",
			page.String() + `: a web page ("Welcome to Hotel & Bar")`,
			empty.String() + "/gone: 404 Not Found",
			bearer.String() + ": ok serves first Bearer " + s.server.String() + "/token",
		}, last...)
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return rep.Endpoints
	}
	list := check("", nil, basic.String()+": 401 Unauthorized Basic", empty.String()+": ok serves")
	if e := list[5]; len(e.Authorities) != 1 || len(e.ClientCerts) != 0 || e.Address != bearer.Host || e.Source != "registry-mirrors" || e.Digest != "" {
		t.Errorf("%+v", e)
	}
	if e := list[2]; e.RateLimit != "0 left" {
		t.Errorf("%+v", e)
	}
	if e := list[6]; !strings.HasSuffix(e.Detail, "nobody is logged in: hezi login docker.io") || e.User != "" {
		t.Errorf("%+v", e)
	}
	if e := list[7]; !strings.HasSuffix(e.AskedLast, "it was slow") {
		t.Errorf("%+v", e)
	}
	wrong := &registry.AuthConfig{Username: "me", Password: "secret", ServerAddress: "https://index.docker.io/v1/"}
	if e := check("docker.io", wrong, basic.String()+": 401 Unauthorized Basic", empty.String()+": ok serves")[6]; !strings.HasSuffix(e.Detail, "the credentials of me are not taken: hezi login docker.io") {
		t.Errorf("%+v", e)
	}
	right := &registry.AuthConfig{Username: "me", Password: "right"}
	list = check("docker.io/x", right, basic.String()+": ok serves Basic", empty.String()+": 404 Not Found")
	for _, i := range []int{5, 6} {
		if list[i].Digest != digest.FromString(manifestBody).String() {
			t.Errorf("%+v", list[i])
		}
	}
	if !cl.isDemoted(empty.String()) || cl.isDemoted(page.String()) {
		t.Error("a test demotes, or forgets")
	}
}

func TestReportOfNonsense(t *testing.T) {
	cl := client(t, Config{CertDirs: hosts(t, "bad.example", "x")})
	for _, name := range []string{"X/Y", "a b", "bad.example"} {
		if _, err := cl.Test(context.Background(), name, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReportOfACertificate(t *testing.T) {
	u := server(t, true, serving)
	rep, err := client(t, Config{}).Test(context.Background(), u.Host, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e := rep.Endpoints[0]; !e.Serves || e.Verified || e.URL != u.String() || !strings.Contains(e.Certificate, "until 20") {
		t.Errorf("%+v", e)
	}
}
