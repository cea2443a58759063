package endpoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/moby/client"
)

func clearEnv(t *testing.T) {
	for _, v := range []string{"HEZI_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"} {
		t.Setenv(v, "")
	}
}

func TestResolve(t *testing.T) {
	clearEnv(t)
	for _, c := range []struct {
		flags Flags
		env   map[string]string
		want  string
		err   string
	}{
		{want: DefaultHost},
		{flags: Flags{Host: "unix:///x"}, env: map[string]string{"HEZI_HOST": "unix:///y"}, want: "unix:///x"},
		{env: map[string]string{"HEZI_HOST": "unix:///y", "DOCKER_HOST": "unix:///z"}, want: "unix:///y"},
		{env: map[string]string{"DOCKER_HOST": "tcp://z"}, want: "tcp://z:2375"},
		{env: map[string]string{"DOCKER_HOST": "unix:///z", "DOCKER_CONTEXT": "nosuch"}, want: "unix:///z"},
		{env: map[string]string{"DOCKER_CONTEXT": "nosuch"}, err: "context not found"},
		{flags: Flags{Context: "default"}, env: map[string]string{"HEZI_HOST": "unix:///y"}, want: "unix:///y"},
		{flags: Flags{Context: "nosuch"}, err: "context not found"},
		{flags: Flags{Context: "a", Host: "b"}, err: "conflicting options"},
		{flags: Flags{Host: "/run/x.sock"}, want: "unix:///run/x.sock"},
		{flags: Flags{Host: "unix://"}, want: DefaultHost},
		{flags: Flags{Host: "far"}, want: "tcp://far:2375"},
		{flags: Flags{Host: "tcp://far:99"}, want: "tcp://far:99"},
		{flags: Flags{Host: "tcp://[::1]"}, want: "tcp://[::1]:2375"},
		{flags: Flags{Host: "tcp://far/base", TLS: true}, want: "tcp://far:2376/base"},
		{flags: Flags{Host: "ssh://me@far"}, want: "ssh://me@far"},
		{flags: Flags{Host: "ssh://me:secret@far"}, err: "ssh"},
		{flags: Flags{Host: "fd://"}, err: "for hezid only"},
		{flags: Flags{Host: "npipe://x"}, err: "is not understood"},
	} {
		t.Run(fmt.Sprintf("%+v %v", c.flags, c.env), func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			c.flags.ConfigDir = t.TempDir()
			ep, err := c.flags.Resolve(&configfile.ConfigFile{})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got the error %v, want %q in it", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if ep.Host != c.want {
				t.Errorf("got %s, want %s", ep.Host, c.want)
			}
		})
	}
}

func connect(t *testing.T, f Flags) *Connection {
	t.Helper()
	f.ConfigDir = t.TempDir()
	ep, err := f.Resolve(&configfile.ConfigFile{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ep.Connect("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestExplain(t *testing.T) {
	clearEnv(t)
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for host, want := range map[string][]string{
		"unix://" + dir + "/nosuch.sock": {"Cannot connect to the Hezi daemon at unix://" + dir + "/nosuch.sock. Is hezid running?", "There is no socket", "hezid"},
		"unix://" + dead:                 {"nothing listens on it", "crashed"},
		"unix://" + dir + "/docker.sock": {"Cannot connect to the Docker daemon at", "dockerd"},
		"tcp://127.0.0.1:1":              {"connection refused", "Nothing listens there"},
	} {
		c := connect(t, Flags{Host: host})
		_, err := c.Ping(context.Background(), client.PingOptions{})
		err = c.Explain(err)
		if !IsUnreachable(err) {
			t.Errorf("%s: %v is not explained", host, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %q", host, w, err)
			}
		}
		if c.Explain(err) != err {
			t.Errorf("%s: explained twice", host)
		}
	}
}

// TestExplainDenied is by the kernel's error alone: tests run as root, whom
// nothing is denied.
func TestExplainDenied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	if err := os.WriteFile(path, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	for docker, group := range map[bool]string{false: "hezi", true: "docker"} {
		got := explainSocket(path, docker, syscall.EACCES)
		_, missing := user.LookupGroup(group)
		if !strings.Contains(got, "belongs to root") || !strings.Contains(got, "sudo usermod -aG "+group+" $USER; ") || !strings.Contains(got, "restart ") {
			t.Errorf("a socket of root's: %s", got)
		}
		if made := strings.Contains(got, "does not exist") && strings.Contains(got, "sudo groupadd --system "+group+"; "); made != (missing != nil) {
			t.Errorf("a socket of root's, the group %s (%v): %s", group, missing, got)
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 0, 4242); err != nil {
		t.Fatal("this test needs root:", err)
	}
	if got := explainSocket(path, false, syscall.EACCES); !strings.Contains(got, "sudo usermod -aG 4242 $USER") {
		t.Errorf("a socket of a group's: %s", got)
	}
}

func TestOtherErrorsStay(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.44")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(500)
		fmt.Fprint(w, `{"message":"no"}`)
	}))
	defer srv.Close()
	clearEnv(t)
	c := connect(t, Flags{Host: "tcp://" + srv.Listener.Addr().String()})
	_, err := c.Info(context.Background(), client.InfoOptions{})
	if got := c.Explain(err); got != err || IsUnreachable(got) {
		t.Errorf("%v became %v", err, got)
	}
	if c.ClientVersion() != "1.44" {
		t.Errorf("the version is %s, not the engine's 1.44", c.ClientVersion())
	}
	t.Setenv("DOCKER_API_VERSION", "1.41")
	if c := connect(t, Flags{Host: "tcp://" + srv.Listener.Addr().String()}); c.ClientVersion() != "1.41" {
		t.Errorf("DOCKER_API_VERSION is not used but %s", c.ClientVersion())
	}
}

// authority makes certificates for both sides.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) issue(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: parent == nil,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+"-key.pem", "PRIVATE KEY", pkcs8)
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) {
	if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	clearEnv(t)
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", nil, nil)
	a.issue("server", a.cert, a.key)
	a.issue("me", a.cert, a.key)
	file := func(name string) string { return filepath.Join(a.dir, name) }

	pair, err := tls.LoadX509KeyPair(file("server.pem"), file("server-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.50")
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	host := "tcp://" + srv.Listener.Addr().String()

	ping := func(f Flags) error {
		f.Host = host
		c := connect(t, f)
		_, err := c.Ping(context.Background(), client.PingOptions{NegotiateAPIVersion: true})
		return c.Explain(err)
	}
	mine := Flags{TLS: true, TLSVerify: true, CACert: file("ca.pem"), Cert: file("me.pem"), Key: file("me-key.pem")}
	if err := ping(mine); err != nil {
		t.Errorf("with all certificates: %v", err)
	}
	unverified := mine
	unverified.TLSVerify, unverified.CACert = false, ""
	if err := ping(unverified); err != nil {
		t.Errorf("--tls without a check: %v", err)
	}
	anonymous := Flags{TLS: true, TLSVerify: true, CACert: file("ca.pem")}
	if err := ping(anonymous); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a certificate of the client: %v", err)
	}
	if err := ping(Flags{}); err == nil {
		t.Error("plain HTTP to a TLS server went well")
	}
	missing := mine
	missing.CACert = file("nosuch.pem")
	missing.ConfigDir = t.TempDir()
	missing.Host = host
	ep, err := missing.Resolve(&configfile.ConfigFile{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ep.Connect("test", nil); err == nil || !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "nosuch.pem") {
		t.Errorf("a missing CA file: %v", err)
	}
}

// TestStartAdvice: a daemon that is not there is not started by a unit that is not there.
func TestStartAdvice(t *testing.T) {
	t.Setenv("PATH", "")
	root := t.TempDir()
	for _, step := range []struct{ adds, want string }{
		{"", "hezid is not installed on this machine"},
		{"run/systemd/system/x", "hezid is not installed on this machine"},
		{"usr/sbin/hezid", "Start it with: "},
		{"lib/systemd/system/hezi.service", "Start it with: sudo systemctl start hezi"},
	} {
		if step.adds != "" {
			at := filepath.Join(root, step.adds)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		got := startAdvice(root, false)
		if !strings.HasPrefix(got, step.want) || step.adds != "" && strings.Contains(step.adds, "hezid") && strings.Contains(got, "systemctl") {
			t.Errorf("with %q: %q", step.adds, got)
		}
		if got := startAdvice(root, true); !strings.HasPrefix(got, "dockerd is not installed") {
			t.Errorf("Docker with %q: %q", step.adds, got)
		}
	}
}
