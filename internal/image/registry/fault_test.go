package registry

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// resolveAt asks a host for the manifest of x:latest.
func resolveAt(t *testing.T, cl *Client, host string) error {
	t.Helper()
	_, err := cl.Repository(ref(t, host+"/x"), RepositoryOptions{}).Resolve(context.Background(), ref(t, host+"/x"))
	return err
}

// says fails unless err has all the texts.
func says(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("got  %v\nwant %s", err, s)
		}
	}
}

func TestACertificateOutOfItsTime(t *testing.T) {
	ca := newAuthority(t)
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/reg.example", 0o755); err != nil {
		t.Fatal(err)
	}
	ca.write(t, dir+"/reg.example")
	if err := os.Rename(dir+"/reg.example/ca.pem", dir+"/reg.example/ca.crt"); err != nil {
		t.Fatal(err)
	}
	past := time.Date(2020, 3, 4, 0, 0, 0, 0, time.UTC)
	future := time.Now().Add(48 * time.Hour)
	for _, c := range []struct {
		from, to time.Time
		want     []string
	}{
		{past.Add(-time.Hour), past, []string{`registry reg.example: tls: failed to verify certificate: the certificate of "reg.example" (issued by "Test Authority") expired on 2020-03-04`, "or the clock is wrong: this machine's clock says "}},
		{future, future.Add(time.Hour), []string{"is valid only from " + future.UTC().Format(time.DateOnly) + " on", "set the clock"}},
	} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) }))
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "reg.example", c.from, c.to)}}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		cl := client(t, Config{CertDirs: []string{dir}})
		cl.current().connect = connectTo(srv.Listener.Addr().String())
		says(t, resolveAt(t, cl, "reg.example"), c.want...)
	}
	old := ca.pair(t, "x", past.Add(-time.Hour), past)
	leaf, err := parseLeaf(old)
	if err != nil {
		t.Fatal(err)
	}
	if b := built(); !b.IsZero() { // known only in what is built from a repository
		if _, got := expired(leaf, b.Add(-time.Hour)); !strings.Contains(got, "which is before this program was made") {
			t.Error(got)
		}
	}
}

const portal = "<!DOCTYPE html><html><head><title>Welcome to\n Hotel &amp; Bar</title></head></html>"

func TestAWebPageIsNoRegistry(t *testing.T) {
	page := func(status int, kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if kind != "" {
				w.Header().Set("Content-Type", kind)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, portal)
		}
	}
	for _, c := range []struct {
		name string
		f    http.HandlerFunc
		want []string
	}{
		{"ok", page(200, "text/html; charset=utf-8"), []string{`HOST answered with a web page ("Welcome to Hotel & Bar"): it is no registry, or a proxy or a login page`}},
		{"called JSON", page(200, "application/json"), []string{"HOST answered with a web page"}},
		{"text", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "I am\ta printer.\r\nWhat do you want to print today? There is paper left for two pages")
		}, []string{`HOST answered "I am a printer. What do you want to print today? There is p…" where a manifest was asked for: what is there is no registry: check the name, the port`}},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, []string{"HOST answered nothing where a manifest was asked for: what is there is no registry"}},
		{"forbidden", page(403, "text/html"), []string{`403 Forbidden from HOST: it sent a web page ("Welcome to Hotel & Bar"): this may be no registry`}},
		{"bad gateway", page(502, ""), []string{"502 Bad Gateway", `it sent a web page ("Welcome to Hotel & Bar")`}},
		{"token server", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				page(200, "text/html")(w, r)
				return
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
		}, []string{"HOST answered with a web page"}},
		{"token server without a token", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				fmt.Fprint(w, "{}")
				return
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
		}, []string{"the token server of registry HOST answered without a token"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := server(t, false, c.f)
			for i := range c.want {
				c.want[i] = strings.ReplaceAll(c.want[i], "HOST", u.String())
			}
			says(t, resolveAt(t, client(t, Config{MaxAttempts: 1}), u.Host), c.want...)
			// A mirror of that kind is passed over.
			origin := server(t, false, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
			cl := client(t, Config{Hub: origin.Host, Mirrors: []string{u.String()}})
			if err := resolveAt(t, cl, "docker.io"); err != nil {
				t.Error(err)
			}
			if !cl.isDemoted(u.String()) {
				t.Error("the mirror is not demoted")
			}
		})
	}
}

func TestAPageInPlaceOfABlob(t *testing.T) {
	u := server(t, false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, portal)
	})
	r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{})
	_, err := r.Blob(context.Background(), ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}, 0)
	says(t, err, "answered with a web page")
}

func TestHTTPToHTTPS(t *testing.T) {
	u := server(t, true, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	cl := client(t, Config{Hub: "127.0.0.1:1", Mirrors: []string{"http://" + u.Host}})
	says(t, resolveAt(t, cl, "docker.io"), "registry "+u.Host+" speaks HTTPS and was asked over plain HTTP: write https://"+u.Host+" where it is configured")
}

// TestALoopbackRegistryWithTLSOnly: the plain attempt must not hide why TLS
// failed.
func TestALoopbackRegistryWithTLSOnly(t *testing.T) {
	addr := newAuthority(t).server(t, "localhost", func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	says(t, resolveAt(t, client(t, Config{MaxAttempts: 1}), addr), "it wants a certificate of this machine that it knows")
}

func TestNoRegistryAtAll(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 mail.example ESMTP\r\n"))
			_, _ = bufio.NewReader(c).ReadString('\n')
			c.Close()
		}
	}()
	cl := client(t, Config{MaxAttempts: 1})
	cl.current().connect = connectTo(l.Addr().String())
	says(t, resolveAt(t, cl, "mail.example:25"), "what listens there speaks neither HTTPS nor HTTP")
}

// TestConnectionsThatDoNotComeAbout: a mirror has less time for one.
func TestConnectionsThatDoNotComeAbout(t *testing.T) {
	cl := client(t, Config{MaxAttempts: 1, Hub: "hub.example", Mirrors: []string{"mirror.example"}, Patience: 9 * time.Second})
	cl.current().connect = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	}
	says(t, resolveAt(t, cl, "docker.io"), "registry https://hub.example did not answer within 9s", "registry https://mirror.example did not answer within 1.5s")
}

func TestNames(t *testing.T) {
	cl := client(t, Config{MaxAttempts: 1})
	cl.current().connect = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "server misbehaving", Name: "reg.example", IsTemporary: true}}
	}
	says(t, resolveAt(t, cl, "reg.example"), "registry reg.example: its address cannot be looked up: server misbehaving: DNS does not answer: check /etc/resolv.conf")
}

func TestRateLimits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		h     http.Header
		want  string
		after time.Duration
	}{
		{http.Header{}, "<nil>", 0},
		{http.Header{"Ratelimit-Limit": {"100;w=21600"}, "Ratelimit-Remaining": {"0;w=21600"}, "Docker-Ratelimit-Source": {"192.0.2.1"}}, "100 in 6h0m0s, 0 left, counted for 192.0.2.1", 0},
		{http.Header{"Ratelimit-Limit": {"100"}, "Ratelimit-Remaining": {"0"}, "Ratelimit-Reset": {"90"}}, "100, 0 left", 90 * time.Second},
		{http.Header{"X-Ratelimit-Limit": {"5000"}, "X-Ratelimit-Remaining": {"7"}, "X-Ratelimit-Reset": {fmt.Sprint(now.Unix() + 60)}}, "5000, 7 left", 0},
		{http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {fmt.Sprint(now.Unix() + 60)}}, "0 left", time.Minute},
		{http.Header{"Retry-After": {fmt.Sprint(now.Unix() + 60)}}, "<nil>", time.Minute},
		{http.Header{"Retry-After": {"99999999999999999999"}, "Ratelimit-Limit": {"x;w=-1"}}, "<nil>", 0},
	} {
		if got := fmt.Sprint(rateLimit(c.h, now)); got != c.want {
			t.Errorf("%v: %q", c.h, got)
		}
		if got := retryAfter(c.h, now); got != c.after {
			t.Errorf("%v: %s", c.h, got)
		}
	}
}

func TestTooManyRequestsIsExplained(t *testing.T) {
	for _, at := range []string{"registry", "token server"} {
		t.Run(at, func(t *testing.T) {
			u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
				if at == "token server" && r.URL.Path != "/token" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("Retry-After", "3723")
				w.Header().Set("Ratelimit-Limit", "100;w=21600")
				w.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
			})
			err := resolveAt(t, client(t, Config{Hub: u.Host}), "docker.io")
			words := "toomanyrequests: You have reached your pull rate limit."
			if at == "registry" { // HEAD has no words
				words = "toomanyrequests: too many requests"
			}
			says(t, err, words+": http://"+u.Host+" limits how often images are pulled (100 in 6h0m0s): wait 1h2m3s", "log in (docker login)",
				`"registry-mirrors": ["https://MIRROR"]`)
			if !errdefs.IsResourceExhausted(err) {
				t.Errorf("class of %v", err)
			}
		})
	}
}

// TestAHubOutOfReach: what was tried is told, and how to set a mirror.
func TestAHubOutOfReach(t *testing.T) {
	sick := server(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	lacks := server(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	cl := client(t, Config{Hub: "127.0.0.1:1", Mirrors: []string{sick.String(), lacks.String(), "http://127.0.0.1:2/hub"}, MaxAttempts: 1, File: "/etc/x.json"})
	says(t, resolveAt(t, cl, "docker.io"),
		"registry 127.0.0.1:1 cannot be reached: connection refused",
		"mirrors did not help: "+sick.String()+" answered 503 Service Unavailable; "+lacks.String()+" answered 404 Not Found; registry http://127.0.0.1:2/hub cannot be reached",
		`name a mirror that you can reach in /etc/x.json: "registry-mirrors": ["https://MIRROR"]`)
	cl = client(t, Config{MaxAttempts: 1})
	if err := resolveAt(t, cl, "127.0.0.1:1"); err == nil || strings.Contains(err.Error(), "registry-mirrors") {
		t.Errorf("a private registry is not mirrored: %v", err)
	}
}

// TestARegistryOutOfReachIsAskedLast: a pull that knows it does not wait for it
// at each layer.
func TestARegistryOutOfReachIsAskedLast(t *testing.T) {
	mirror := server(t, false, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	cl := client(t, Config{Hub: "127.0.0.1:1", Mirrors: []string{mirror.String()}})
	cl.demote(mirror.String(), errSlow)
	r := cl.Repository(ref(t, "x"), RepositoryOptions{})
	hosts := func() (list []string) {
		for _, ep := range r.order(canPull) {
			list = append(list, ep.host)
		}
		return list
	}
	if got := fmt.Sprint(hosts()); got != "[127.0.0.1:1 "+mirror.Host+"]" {
		t.Errorf("first %s", got)
	}
	if _, err := r.Resolve(context.Background(), ref(t, "x")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(hosts()); got != "["+mirror.Host+" 127.0.0.1:1]" {
		t.Errorf("then %s", got)
	}
}

func TestAMirrorThatTricklesIsPassedOver(t *testing.T) {
	body := strings.Repeat("x", 100_000)
	hold := make(chan struct{})
	mirror := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		for i := 0; i < len(body); i += 10 {
			if _, err := io.WriteString(w, body[i:i+10]); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-hold:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	defer close(hold)
	cl := client(t, Config{Hub: "127.0.0.1:1", Mirrors: []string{mirror.String()}, Patience: 400 * time.Millisecond})
	r := cl.Repository(ref(t, "x"), RepositoryOptions{})
	d := ocispec.Descriptor{Digest: digest.FromString(body), Size: int64(len(body))}
	b, err := r.Blob(context.Background(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = io.Copy(io.Discard, b)
	if !errors.Is(err, errSlow) {
		t.Fatalf("got %v", err)
	}
	says(t, r.Cut(b, err), "registry "+mirror.String()+" is too slow: ")
	if !cl.isDemoted(mirror.String()) {
		t.Error("the mirror is not demoted")
	}
	// Nobody else is left: then it may be slow.
	if b, err = r.Blob(context.Background(), d, 0); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err = io.CopyN(io.Discard, b, 600); err != nil {
		t.Errorf("the only host that is left was given up: %v", err)
	}
}

func TestAMirrorMayBeSilentLessLong(t *testing.T) {
	hold := make(chan struct{})
	mirror := server(t, false, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	defer close(hold)
	origin := server(t, false, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	var told []string
	cl := client(t, Config{Hub: origin.Host, Mirrors: []string{mirror.String()}, Patience: 3 * time.Second})
	r := cl.Repository(ref(t, "x"), RepositoryOptions{Tell: func(l string) { told = append(told, l) }})
	if _, err := r.Resolve(context.Background(), ref(t, "x")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(told, "\n"); !strings.Contains(got, "did not answer within 1.5s") {
		t.Errorf("told %s", got)
	}
}
