package registry

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const manifestBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`

func client(t *testing.T, c Config) *Client {
	t.Helper()
	cl, err := New(c, "hezi/test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func server(t *testing.T, tls bool, f http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewUnstartedServer(f)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// connectTo leads all connections to one address.
func connectTo(addr string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

func ref(t *testing.T, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return reference.TagNameOnly(n)
}

func serveManifest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	fmt.Fprint(w, manifestBody)
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Mirrors: []string{"mirror.example", "mirror.example:5000/prefix", "[::1]:5000"}}, ""},
		{Config{Mirrors: []string{"mirror example"}}, "invalid mirror"},
		{Config{Mirrors: []string{""}}, "invalid mirror"},
		{Config{Mirrors: []string{"https://"}}, "invalid mirror"},
		{Config{Mirrors: []string{"https://mirror.example:x"}}, "invalid mirror"},
		{Config{Mirrors: []string{"https://u:secret@mirror.example:x"}}, "invalid mirror"},
		{Config{MirrorsOf: map[string][]string{"ghcr.io": {"mirror.example/ghcr"}, "[::1]:5000": {"http://10.0.0.1"}, "docker.io": {"https://other.example"}}}, ""},
		{Config{MirrorsOf: map[string][]string{"https://ghcr.io": {"mirror.example"}}}, "is not a registry's name"},
		{Config{MirrorsOf: map[string][]string{"ghcr.io/x": {"mirror.example"}}}, "is not a registry's name"},
		{Config{Proxy: Proxy{HTTPS: "ftp://proxy.example"}}, "cannot be used"},
		{Config{Proxy: Proxy{HTTPS: "http://u:secret@"}}, "cannot be used"},
		{Config{Proxy: Proxy{HTTPS: "http://u:sec%ret@proxy.example"}}, "is no URL"},
		{Config{Proxy: Proxy{HTTP: "proxy.example:3128", HTTPS: "socks5://127.0.0.1:1080", No: "lan,10.0.0.0/8"}}, ""},
		{Config{Mirrors: []string{"ftp://mirror.example"}}, "invalid mirror"},
		{Config{Mirrors: []string{"https://u:secret@mirror.example"}}, "username/password not allowed"},
		{Config{Mirrors: []string{"https://mirror.example/?x=1"}}, "query or fragment"},
		{Config{Insecure: []string{"http://reg.example", "https://reg.example:5000/", "[fd00::1]:5000", "[fd00::1]", "fd00::1", "fd00::/8", "my_host"}}, ""},
		{Config{Insecure: []string{"ftp://reg.example"}}, "not valid"},
		{Config{Insecure: []string{"reg.example:99999"}}, "invalid port"},
		{Config{Insecure: []string{"-reg"}}, "not valid"},
		{Config{Insecure: []string{"reg.example/path"}}, "not valid"},
		{Config{Mirrors: []string{"https://mirror.example/", "http://10.0.0.1:5000/prefix"}, Insecure: []string{"10.0.0.0/8", "reg.example:5000"}}, ""},
	} {
		err := c.cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c.cfg, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestInsecure(t *testing.T) {
	s, err := parse(Config{Insecure: []string{"reg.example", "http://other.example:5000", "10.1.0.0/16", "fd00::/8", "[2001:db8::2]", "[2001:db8::3]:5000"}})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"reg.example": true, "reg.example:443": true, "REG.example:5000": true, "other.example:5000": true, "other.example": false, "other.example:5001": false,
		"10.1.2.3:5000": true, "10.2.2.3": false, "[fd00::1]:5000": true, "[2001:db8::1]:5000": false,
		"[2001:db8::2]:1": true, "[2001:db8::2]": true, "[2001:db8::3]:5000": true, "[2001:db8::3]:5001": false,
		"localhost": true, "localhost:5000": true, "127.9.9.9:1": true, "[::1]:5000": true, "localhost.example": false, "docker.io": false,
	} {
		if got := s.insecure(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

// tokens is a registry with a token server, as Docker Hub is.
type tokens struct {
	mu     sync.Mutex // guards all below
	fails  int        // how often the token server fails before it works
	asked  []*http.Request
	forms  []url.Values
	server *url.URL
	handle http.HandlerFunc // answers who has a token; nil is a manifest
}

func (s *tokens) registry(t *testing.T, user, password string) *url.URL {
	s.server = server(t, false, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, r.Clone(context.Background()))
		_ = r.ParseForm()
		s.forms = append(s.forms, r.Form)
		if s.fails > 0 {
			s.fails--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		u, p := r.Form.Get("username"), r.Form.Get("password")
		if r.Method == http.MethodGet {
			u, p, _ = r.BasicAuth()
		}
		if r.Form.Get("refresh_token") == "identity" {
			u, p = user, password
		}
		if u != user || p != password {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"details":"incorrect username or password"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": "good", "access_token": "good", "expires_in": 300})
	})
	return server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:x:pull"`, s.server))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if s.handle != nil {
			s.handle(w, r)
			return
		}
		serveManifest(w)
	})
}

func TestTokens(t *testing.T) {
	for _, c := range []struct {
		name string
		auth *registry.AuthConfig
		want string
	}{
		{"user and password", &registry.AuthConfig{Username: "u", Password: "p"}, ""},
		{"the field auth", &registry.AuthConfig{Auth: "dTpw"}, ""},
		{"identity token", &registry.AuthConfig{IdentityToken: "identity"}, ""},
		{"registry token", &registry.AuthConfig{RegistryToken: "good"}, ""},
		{"wrong", &registry.AuthConfig{Username: "u", Password: "wrong"}, "pull access denied for HOST/x, repository does not exist or may require 'docker login': incorrect username or password"},
		{"nobody", nil, "pull access denied for HOST/x, repository does not exist or may require 'docker login': "},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &tokens{}
			u := s.registry(t, "u", "p")
			r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{Auth: c.auth})
			d, err := r.Resolve(context.Background(), ref(t, u.Host+"/x"))
			if c.want == "" {
				if err != nil || d.Digest != digest.FromString(manifestBody) {
					t.Fatal(d, err)
				}
				return
			}
			if want := strings.ReplaceAll(c.want, "HOST", u.Host); err == nil || !strings.HasPrefix(err.Error(), want) || !errdefs.IsNotFound(err) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if err != nil && strings.Contains(err.Error(), "wrong") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestATokenServerMayFailOnce(t *testing.T) {
	s := &tokens{fails: 2} // POST, and GET in its stead
	u := s.registry(t, "u", "p")
	r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p"}})
	if _, err := r.Resolve(context.Background(), ref(t, u.Host+"/x")); err != nil {
		t.Fatal(err)
	}
}

func TestATokenServerMayNotSendCredentialsOn(t *testing.T) {
	var got []string
	thief := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = append(got, r.Header.Get("Authorization")+r.Form.Encode())
	})
	token := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.String()+r.URL.Path, http.StatusTemporaryRedirect)
	})
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, token))
		w.WriteHeader(http.StatusUnauthorized)
	})
	r := client(t, Config{MaxAttempts: 1}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p"}})
	if _, err := r.Resolve(context.Background(), ref(t, u.Host+"/x")); err == nil {
		t.Error("no error")
	}
	if len(got) > 0 {
		t.Errorf("another host got %q", got)
	}
}

func TestARegistryWithoutHead(t *testing.T) {
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusNotFound} {
		u := server(t, true, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(status)
				return
			}
			serveManifest(w)
		})
		r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{})
		d, err := r.Resolve(context.Background(), ref(t, u.Host+"/x"))
		if err != nil || d.Digest != digest.FromString(manifestBody) || d.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("%v %v", d, err)
		}
	}
}

func TestTagsInPages(t *testing.T) {
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/x/tags/list?last=b&n=1000>; rel="next"`)
			fmt.Fprint(w, `{"name":"x","tags":["a","b"]}`)
			return
		}
		fmt.Fprint(w, `{"name":"x","tags":["c"]}`)
	})
	r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{})
	tags, err := r.Tags(context.Background())
	if err != nil || fmt.Sprint(tags) != "[a b c]" {
		t.Error(tags, err)
	}
}

func TestForeignLayers(t *testing.T) {
	var header http.Header
	elsewhere := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Clone()
		fmt.Fprint(w, "layer")
	})
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	r := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p"}})
	d := ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: digest.FromString("layer"), Size: 5, URLs: []string{elsewhere.String() + "/layer"}}
	b, err := r.Blob(context.Background(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if header.Get("Authorization") != "" {
		t.Error("a foreign address got credentials")
	}
	d.MediaType = ocispec.MediaTypeImageLayerGzip // only layers that say so are elsewhere
	if _, err := r.Blob(context.Background(), d, 0); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestUnreachableIsExplained(t *testing.T) {
	c := client(t, Config{Patience: time.Second})
	ep := &endpoint{c: c, scheme: "https", host: "reg.example:5000"}
	for _, x := range []struct {
		err  error
		want string
	}{
		{errors.New("http: server gave HTTP response to HTTPS client"), `add "reg.example:5000" to insecure-registries`},
		{&url.Error{Op: "Get", URL: "https://reg.example:5000/v2/", Err: x509.UnknownAuthorityError{}}, `add "reg.example:5000" to insecure-registries`},
		{&net.DNSError{Err: "no such host", Name: "reg.example", IsNotFound: true}, "registry reg.example:5000: no such host: check the spelling"},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "registry https://reg.example:5000 cannot be reached: connection refused"},
		{context.DeadlineExceeded, "registry https://reg.example:5000 did not answer within 1s"},
		{syscall.ECONNRESET, "registry https://reg.example:5000 cannot be reached: connection reset by peer"},
	} {
		if f := c.unreachable(ep, c.current().settings, x.err); !strings.Contains(f.Error(), x.want) || !errdefs.IsUnavailable(f) {
			t.Errorf("got  %s\nwant %s", f, x.want)
		}
	}
}

func TestWhatARegistrySaysIsPrintable(t *testing.T) {
	if got := printable("a\x1b[31mb\nc\xff"); got != "a [31mb c?" {
		t.Errorf("%q", got)
	}
	if got := printable(strings.Repeat("é", 1000)); len(got) > 510 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "x": 0, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2025 03:05:05 GMT": 0} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %s", v, got)
		}
	}
}

// TestSchemes asks hosts that are not loopback: the connections are led to a
// server of the test.
func TestSchemes(t *testing.T) {
	for _, c := range []struct {
		host     string
		tls      bool
		insecure []string
		want     string // "" is success
	}{
		{"reg.example:5000", false, nil, `registry reg.example:5000: http: server gave HTTP response to HTTPS client: it speaks plain HTTP only; if you trust the network between, add "reg.example:5000" to insecure-registries`},
		{"reg.example:5000", true, nil, "registry reg.example:5000: tls: failed to verify certificate: "},
		{"reg.example:5000", false, []string{"reg.example:5000"}, ""},
		{"reg.example:5000", true, []string{"reg.example"}, ""},
		{"10.1.2.3:5000", false, []string{"10.1.0.0/16"}, ""},
		{"10.1.2.3:5000", true, []string{"10.1.0.0/16"}, ""},
		{"10.1.2.3:5000", false, []string{"10.2.0.0/16"}, "server gave HTTP response to HTTPS client"},
	} {
		u := server(t, c.tls, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
		cl := client(t, Config{Insecure: c.insecure})
		cl.current().connect = connectTo(u.Host)
		_, err := cl.Repository(ref(t, c.host+"/x"), RepositoryOptions{}).Resolve(context.Background(), ref(t, c.host+"/x"))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v:\ngot  %v", c, err)
		}
		cl.Close()
	}
}

func TestTagsAreNotLookedUpOverPlainHTTP(t *testing.T) {
	plain := server(t, false, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	u := server(t, true, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.String()+r.URL.Path, http.StatusFound)
	})
	_, err := client(t, Config{}).Repository(ref(t, u.Host+"/x"), RepositoryOptions{}).Resolve(context.Background(), ref(t, u.Host+"/x"))
	if err == nil || !strings.Contains(err.Error(), "redirect not followed") {
		t.Errorf("got %v", err)
	}
}

func TestCertificatesOfAHost(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) }))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	cl := client(t, Config{CertDirs: []string{dir + "/missing", dir}})
	cl.current().connect = connectTo(srv.Listener.Addr().String())
	resolve := func() error {
		_, err := cl.Repository(ref(t, "example.com:5000/x"), RepositoryOptions{}).Resolve(context.Background(), ref(t, "example.com:5000/x"))
		return err
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "tls: failed to verify certificate") {
		t.Errorf("got %v", err)
	}
	if err := os.Mkdir(dir+"/example.com:5000", 0o755); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(dir+"/example.com:5000/ca.crt", ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dir+"/example.com:5000/client.cert", ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "client.cert cannot be used: with key "+dir+"/example.com:5000/client.key: no such file") {
		t.Errorf("got %v", err)
	}
}

// TestReloadOfLimits: what is under way counts, unless the limit is another one.
func TestReloadOfLimits(t *testing.T) {
	cl := client(t, Config{MaxDownloads: 1, MaxUploads: 1})
	free := func(slot func(*Repository, context.Context, func()) (func(), error)) bool {
		ctx, cancel := context.WithCancel(context.Background())
		release, err := slot(cl.Repository(ref(t, "x"), RepositoryOptions{}), ctx, cancel)
		cancel()
		if err == nil {
			release()
		}
		return err == nil
	}
	r := cl.Repository(ref(t, "x"), RepositoryOptions{})
	for _, slot := range []func(*Repository, context.Context, func()) (func(), error){(*Repository).Slot, (*Repository).UploadSlot} {
		release, err := slot(r, context.Background(), func() { t.Error("waits") })
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if free(slot) {
			t.Error("more than one at once")
		}
	}
	if err := cl.Reload(Config{MaxDownloads: 1, MaxUploads: 2}); err != nil {
		t.Fatal(err)
	}
	if free((*Repository).Slot) || !free((*Repository).UploadSlot) {
		t.Error("the limits after a reload are others than the configuration's")
	}
}

func TestReload(t *testing.T) {
	mirror := server(t, false, func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	cl := client(t, Config{Hub: "127.0.0.1:1"})
	resolve := func() error {
		_, err := cl.Repository(ref(t, "x"), RepositoryOptions{}).Resolve(context.Background(), ref(t, "x"))
		return err
	}
	if err := resolve(); err == nil {
		t.Error("nothing serves, and no error")
	}
	if err := cl.Reload(Config{Hub: "127.0.0.1:1", Mirrors: []string{mirror.String()}}); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err != nil {
		t.Error(err)
	}
	if err := cl.Reload(Config{Mirrors: []string{"ftp://nonsense"}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := resolve(); err != nil {
		t.Errorf("a configuration that was refused was taken: %v", err)
	}
}
