package registry

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	moby "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestHostsTOML(t *testing.T) {
	h, err := parseHosts(`
server = "https://registry-1.docker.io"
ca = "root.pem"

[host."https://b.example:5000/prefix"]
  capabilities = ["pull", "resolve"]
  ca = ["one.pem", "/two.pem"]
  client = [["c.pem", "c.key"], "both.pem"]
  skip_verify = true
  dial_timeout = "3s"
  [host."https://b.example:5000/prefix".header]
    x-one = "1"
    x-two = ["a", "b"]

[host."http://a.example/api"]
  override_path = true
  client = "both.pem"

[host."c.example"]
`, "/dir")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range append(h.hosts, h.server) {
		skip := e.skipVerify != nil && *e.skipVerify
		got = append(got, fmt.Sprintln(e.scheme, e.host, e.root, e.can.names(), e.authorities, e.client, skip, e.header, e.dialTimeout))
	}
	want := []string{
		"https b.example:5000 /prefix/v2 [pull resolve] [/dir/one.pem /two.pem] [[/dir/c.pem /dir/c.key] [/dir/both.pem /dir/both.pem]] true map[X-One:[1] X-Two:[a b]] 3s",
		"http a.example /api [pull resolve push referrers] [] [[/dir/both.pem /dir/both.pem]] false map[] 0s",
		"https c.example /v2 [pull resolve push referrers] [] [] false map[] 0s",
		"https registry-1.docker.io /v2 [pull resolve push referrers] [/dir/root.pem] [] false map[] 0s",
	}
	if strings.Join(got, "") != strings.Join(want, "\n")+"\n" {
		t.Errorf("got\n%swant\n%s", strings.Join(got, ""), strings.Join(want, "\n"))
	}
}

func TestBadHostsTOML(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"server = ", "line 1: "},
		{"\n[host", "line 2: "},
		{"\nserver = 1", "line 2: server: a URL is needed"},
		{"\n\nserver = \"ftp://x\"", "line 3: server: scheme \"ftp\" is not known"},
		{"\nserver = \"https://u:secret@x\"", "line 2: server: a URL without user and password"},
		{"\ncapabilities = [\"pull\", \"fly\"]", "line 2: capabilities: unknown capability \"fly\""},
		{"[host.\"https://x\"]\nskip_verify = \"yes\"", "line 2"},
		{"[host.\"https://x\"]\nskip_verifi = true", "line 2: unknown key \"host.\\\"https://x\\\".skip_verifi\""},
		{"\n\nmirrors = []", "line 3: unknown key \"mirrors\""},
		{"[host.\"https://x\"]\ndial_timeout = 3", "line 2"},
		{"[host.\"https://x\"]\ndial_timeout = \"-3s\"", "line 2"},
		{"[host.\"https://x\"]\nclient = [[\"a\", \"b\", \"c\"]]", "line 2"},
		{"[host.\"https://x\"]\nclient = 7", "line 2"},
		{"[host.\"https://x\"]\nca = [1]", "line 2"},
		{"[host.\"https://x\".header]\n\"x y\" = \"1\"", "header \"x y\" cannot be sent"},
		{"[host.\"https://x\".header]\nx = \"a\\nb\"", "header \"x\" cannot be sent"},
		{"\n[host.\"https://x:y\"]", "line 2: "},
		{"\n[host.\"\"]", "line 2: "},
	} {
		_, err := parseHosts(c.src, "/")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", c.src, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestHostDir(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, d := range []string{one + "/reg:5000", one + "/[::1]_5000_", two + "/reg_5000_", two + "/docker.io", two + "/_default", two + "/[::1]"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dirs := []string{one, t.TempDir() + "/missing", two}
	for host, want := range map[string]string{
		"reg:5000": one + "/reg:5000", "docker.io": two + "/docker.io", "other": two + "/_default", "[::1]:5000": one + "/[::1]_5000_", "[::1]": two + "/[::1]",
		"..": "", ".": "", "": "", "../etc": "",
	} {
		got, err := hostDir(dirs, host)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", host, got, err, want)
		}
	}
	if got, err := hostDir(dirs[:2], "other"); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

// hosts writes a hosts.toml for one registry and returns its CertDirs.
func hosts(t *testing.T, registry, format string, args ...any) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, registry), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, registry, "hosts.toml"), fmt.Appendf(nil, format, args...), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{dir}
}

func TestHostsTOMLLeads(t *testing.T) {
	var asked []string
	note := func(name string, f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, fmt.Sprintf("%s %s %s?%s %s %q", name, r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("X-Extra"), r.Header.Get("Authorization")))
			f(w, r)
		}
	}
	lacks := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
	serves := func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) }
	one, two, origin := server(t, false, note("one", lacks)), server(t, false, note("two", serves)), server(t, false, note("origin", serves))
	dirs := hosts(t, "reg.example", `
server = %q
[host."%s/api"]
  override_path = true
  header = {x-extra = "1"}
[host.%q]
  capabilities = ["pull"]
[host."https://127.0.0.1:1"]
  capabilities = ["push"]
`, origin.String(), one, two.String())
	cl := client(t, Config{CertDirs: dirs})
	var told []string
	r := cl.Repository(ref(t, "reg.example/x"), RepositoryOptions{
		Auth: &moby.AuthConfig{Username: "u", Password: "p"}, Tell: func(l string) { told = append(told, l) },
	})
	d, err := r.Resolve(context.Background(), ref(t, "reg.example/x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Manifest(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	manifest := "/x/manifests/" + d.Digest.String()
	want := []string{
		`one HEAD /api/x/manifests/latest?ns=reg.example 1 ""`,
		`one GET /api/x/manifests/latest?ns=reg.example 1 ""`,
		`origin HEAD /v2/x/manifests/latest?ns=reg.example  ""`,
		`origin GET /v2/x/manifests/latest?ns=reg.example  ""`,
		`one GET /api` + manifest + `?ns=reg.example 1 ""`,
		`two GET /v2` + manifest + `?ns=reg.example  ""`,
	}
	if strings.Join(asked, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(asked, "\n"), strings.Join(want, "\n"))
	}
	if got := strings.Join(told, "\n"); !strings.Contains(got, "Mirror "+one.String()+"/api is passed over: it does not have this image") || !strings.Contains(got, "Mirror "+two.String()+" serves this image") {
		t.Errorf("told %s", got)
	}
	if ep, err := r.pusher(); err != nil || ep.host != one.Host {
		t.Errorf("pushes go to %+v, %v", ep, err) // the first that may, as with containerd
	}
}

func TestABadHostsTOMLIsTold(t *testing.T) {
	dirs := hosts(t, "reg.example", "\nserver = 5\n")
	cl := client(t, Config{CertDirs: dirs})
	r := cl.Repository(ref(t, "reg.example/x"), RepositoryOptions{})
	_, err := r.Resolve(context.Background(), ref(t, "reg.example/x"))
	if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), dirs[0]+"/reg.example/hosts.toml: line 2: server: ") {
		t.Errorf("got %v", err)
	}
	if _, err := r.pusher(); err == nil {
		t.Error("a push goes somewhere")
	}
	if err := CheckHosts(dirs); err == nil {
		t.Error("the check says nothing")
	}
}

func TestHostsTOMLMayAllowNobody(t *testing.T) {
	dirs := hosts(t, "reg.example", "server = \"https://reg.example\"\ncapabilities = [\"push\"]\n")
	r := client(t, Config{CertDirs: dirs}).Repository(ref(t, "reg.example/x"), RepositoryOptions{})
	_, err := r.Resolve(context.Background(), ref(t, "reg.example/x"))
	if err == nil || !strings.Contains(err.Error(), "allows no host to be asked for this: add \"resolve\" to the capabilities") {
		t.Errorf("got %v", err)
	}
}

func TestHostsTOMLCountsMoreThanMirrors(t *testing.T) {
	var asked []string
	f := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			asked = append(asked, name)
			w.WriteHeader(http.StatusNotFound)
		}
	}
	one, two := server(t, false, f("hosts.toml")), server(t, false, f("registry-mirrors"))
	c := Config{CertDirs: hosts(t, "docker.io", "[host.%q]\n", one), Mirrors: []string{two.String()}, Hub: "127.0.0.1:1", MaxAttempts: 1}
	if err := resolveAt(t, client(t, c), "docker.io"); err == nil || strings.Join(asked, " ") != "hosts.toml hosts.toml" {
		t.Errorf("asked %q, %v", asked, err)
	}
	asked, c.CertDirs = nil, hosts(t, "docker.io", "skip_verify = true\n") // names no hosts
	if err := resolveAt(t, client(t, c), "docker.io"); err == nil || strings.Join(asked, " ") != "registry-mirrors registry-mirrors" {
		t.Errorf("asked %q, %v", asked, err)
	}
}

// TestCertificatesOfHostsTOML has a server that wants a client certificate.
func TestCertificatesOfHostsTOML(t *testing.T) {
	ca := newAuthority(t)
	srv := ca.server(t, "mirror.example", func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	dirs := hosts(t, "reg.example", "[host.\"https://mirror.example:5000\"]\nca = \"ca.pem\"\nclient = [[\"me.pem\", \"me.key\"]]\n")
	cl := client(t, Config{CertDirs: dirs, MaxAttempts: 1})
	cl.current().connect = connectTo(srv)
	resolve := func() error {
		_, err := cl.Repository(ref(t, "reg.example/x"), RepositoryOptions{}).Resolve(context.Background(), ref(t, "reg.example/x"))
		clear(cl.demoted)
		return err
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "certificate "+dirs[0]+"/reg.example/ca.pem cannot be used: no such file") {
		t.Errorf("got %v", err)
	}
	ca.write(t, dirs[0]+"/reg.example")
	if err := resolve(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dirs[0]+"/reg.example/hosts.toml", []byte("[host.\"https://mirror.example:5000\"]\nskip_verify = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "it wants a certificate of this machine that it knows") {
		t.Errorf("got %v", err)
	}
}

func TestMirrorsOfOtherRegistries(t *testing.T) {
	var asked []string
	mirror := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		serveManifest(w)
	})
	cl := client(t, Config{MirrorsOf: map[string][]string{"[::1]:5000": {mirror.Host + "/six/v2/", mirror.Host + "/six"}}})
	r := cl.Repository(ref(t, "[::1]:5000/a/b:1"), RepositoryOptions{})
	if n := len(r.all); n != 2 {
		t.Errorf("%d hosts to ask", n)
	}
	d, err := r.Resolve(context.Background(), ref(t, "[::1]:5000/a/b:1"))
	if err != nil || d.Digest != digest.FromString(manifestBody) || d.MediaType != ocispec.MediaTypeImageManifest {
		t.Fatal(d, err)
	}
	if want := "HEAD /six/v2/a/b/manifests/1?ns=%5B%3A%3A1%5D%3A5000"; asked[0] != want {
		t.Errorf("asked %q", asked)
	}
}
