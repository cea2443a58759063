package registry

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/distribution/reference"
	moby "github.com/moby/moby/api/types/registry"
)

// FuzzReference: whatever a user names, the request goes to the host that the
// name begins with, and to no other path than the repository's.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"x", "a/b:1", "[::1]:5000/x", "reg.example:5000/a/b@sha256:" + strings.Repeat("0", 64), "localhost/x", "a..b/x", "docker.io/x", "x?y/z", "reg.example:70000/x"} {
		f.Add(s)
	}
	cl, err := New(Config{CertDirs: []string{f.TempDir()}, Hub: "hub.example", Mirrors: []string{"m.example/p"}, MirrorsOf: map[string][]string{"reg.example:5000": {"http://n.example"}}}, "x", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := reference.ParseNormalizedNamed(s)
		if err != nil {
			return
		}
		r := cl.Repository(ref, RepositoryOptions{Auth: &moby.AuthConfig{Username: "u", Password: "p"}})
		if r.broken != nil {
			t.Fatal(r.broken)
		}
		object, _ := objectOf(ref)
		want := reference.Domain(ref)
		if want == hubName {
			want = "hub.example"
		}
		for i, ep := range r.all {
			addr, own := r.address(ep, "https", request{rest: "manifests/" + object})
			u, err := url.Parse(addr)
			if err != nil { // a port that is none: no request is made
				continue
			}
			if !own || u.Host != ep.host || !strings.HasSuffix(u.Path, "/v2/"+reference.Path(ref)+"/manifests/"+object) || u.RawQuery != "" || u.Fragment != "" {
				t.Errorf("%q is asked at %q", s, addr)
			}
			if last := i == len(r.all)-1; last && (u.Host != want || ep.user == "") || !last && ep.user != "" {
				t.Errorf("%q: %s is asked by %q", s, u.Host, ep.user)
			}
		}
	})
}

// FuzzHosts: a hosts.toml is read or refused, and what is read can be used.
func FuzzHosts(f *testing.F) {
	f.Add("server = \"https://x\"\n[host.\"http://y:5000/p\"]\ncapabilities = [\"pull\"]\nclient = [[\"a\", \"b\"]]\nca = \"c\"\nheader = {a = [\"b\"]}\ndial_timeout = \"1s\"\n")
	f.Add("[host]\n[host.x.header]\n")
	f.Add("host = 1")
	f.Add("[[host]]\n")
	f.Add("[host.\"https://x\"]\nskip_verify = \"x\"\n\"a.b\" = 1")
	f.Fuzz(func(t *testing.T, src string) {
		h, err := parseHosts(src, "/dir")
		if err != nil {
			return
		}
		for _, e := range append(h.hosts, h.server) {
			if e.host == "" && e.scheme == "" {
				continue
			}
			u, err := url.Parse(e.scheme + "://" + e.host + e.root + "/x")
			if err != nil || u.Host != e.host || u.User != nil || e.can == 0 || e.can&^canAll != 0 || e.dialTimeout < 0 {
				t.Errorf("%q: %+v (%v)", src, e, err)
			}
			for name, values := range e.header {
				if !validHeader(name, values) {
					t.Errorf("%q: header %q", src, name)
				}
			}
		}
	})
}

// FuzzChallenge: a registry may ask for a login in any words; nothing leaves
// for a host that it does not name, and nothing hangs.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="/token",service="x",scope="a b"`, `Basic realm="x"`, `Bearer realm="http://[::1",error="x"`, "Bearer ,,,=", `Digest a="b`, "bearer realm=\"ftp://x\"", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Www-Authenticate"] = []string{one, two}
			w.WriteHeader(http.StatusUnauthorized)
		}))
		defer srv.Close()
		cl, err := New(Config{CertDirs: []string{}, Patience: time.Second, MaxAttempts: 1, Proxy: Proxy{No: "*"}}, "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		host := strings.TrimPrefix(srv.URL, "http://")
		cl.setScheme(host, "http")
		g := cl.current()
		g.connect = connectTo(host) // wherever it leads
		ref, err := reference.ParseNormalizedNamed(host + "/x")
		if err != nil {
			t.Fatal(err)
		}
		auth := &moby.AuthConfig{Username: "u", Password: "p", ServerAddress: host}
		if _, err := cl.Repository(ref, RepositoryOptions{Auth: auth}).Resolve(context.Background(), ref); err == nil {
			t.Error("nothing was served")
		}
		if _, err := cl.Login(context.Background(), *auth); err == nil {
			t.Error("a login succeeded")
		}
	})
}

// FuzzErrorBody: what a registry sends as an error is told in words that cannot
// harm a terminal.
func FuzzErrorBody(f *testing.F) {
	f.Add(404, `{"errors":[{"code":"X","message":"y"}]}`, "", "")
	f.Add(429, `{"details":"\u001b[31m"}`, "60", "100;w=21600")
	f.Add(502, "<html><title>a\x1b[31m</title></html>", "Wed, 21 Oct 2015 07:28:00 GMT", "-1")
	f.Add(403, `{"errors":[{"code":"\u009b31m","message":"\u0085"}]}`, "0", "1")
	f.Add(401, "\xff\xfe<TITLE>x", "1e9", "x;w=999999999999")
	f.Fuzz(func(t *testing.T, status int, body, after, limit string) {
		if status < 300 || status > 999 {
			return
		}
		h := http.Header{"Retry-After": {after}, "Ratelimit-Limit": {limit}, "Ratelimit-Remaining": {limit}, "Ratelimit-Reset": {after}, "Docker-Ratelimit-Source": {body}}
		rec := httptest.NewRecorder()
		for k, v := range h {
			rec.Header()[k] = v
		}
		rec.WriteHeader(status)
		_, _ = rec.WriteString(body)
		ref, err := reference.ParseNormalizedNamed("x")
		if err != nil {
			t.Fatal(err)
		}
		fail := refused("http://reg.example", rec.Result())
		r := &Repository{name: ref, gen: &generation{settings: &settings{file: "/x"}}}
		for _, err := range []error{fail, r.explain(ref, fail), r.explainStatus("x", fail)} {
			if text := err.Error(); text == "" || strings.ContainsFunc(text, unicode.IsControl) || len(text) > 3000 {
				t.Errorf("%q", text)
			}
		}
		if fail.RetryAfter < 0 {
			t.Errorf("wait %s", fail.RetryAfter)
		}
	})
}

// FuzzMirror: an entry of registry-mirrors is one host.
func FuzzMirror(f *testing.F) {
	for _, s := range []string{"https://m.example/p/v2/", "m:5000", "[::1]:5000", "http://a@b", "https://x/%2e%2e/", "//x", "x//y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMirror(s)
		if err != nil {
			return
		}
		u, err := url.Parse("https://" + m.host + m.path + "/v2/x/manifests/latest")
		if err != nil || u.Host != m.host || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !strings.HasSuffix(u.Path, "/v2/x/manifests/latest") {
			t.Errorf("%q: %+v (%v)", s, m, err)
		}
	})
}
