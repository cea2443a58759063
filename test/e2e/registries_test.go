package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hezi/test/harness"
)

// certsDir makes the folder of a registry in /etc/hezi/certs.d, and removes
// what it made after the test.
func certsDir(t *testing.T, registry string) string {
	t.Helper()
	var made string
	path := "/etc/hezi/certs.d/" + registry
	for p := path; ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			break
		}
		made = p
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(made) })
	return path
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// home runs hezi with a home of its own, and what a test puts on PATH.
type home struct {
	t   *testing.T
	dir string
	e   *harness.Engine
}

func (h home) run(stdin string, args ...string) (out string, ok bool) {
	h.t.Helper()
	cmd := h.e.Command(args...)
	cmd.Env = append(cmd.Env, "HOME="+h.dir, "PATH="+h.dir+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}

// succeeds fails unless hezi does, and says what is wanted.
func (h home) succeeds(says, stdin string, args ...string) {
	h.t.Helper()
	if out, ok := h.run(stdin, args...); !ok || !strings.Contains(out, says) {
		h.t.Errorf("hezi %q: %v\n%s\nwant %s", args, ok, out, says)
	}
}

// fails fails unless hezi does, with what is wanted.
func (h home) fails(says, stdin string, args ...string) {
	h.t.Helper()
	if out, ok := h.run(stdin, args...); ok || !strings.Contains(out, says) {
		h.t.Errorf("hezi %q: %v\n%s\nwant %s", args, ok, out, says)
	}
}

// helper is a credential helper that keeps its secrets in a file.
const helper = `#!/bin/sh
dir=$(dirname "$0")
case $1 in
get) read -r s; f=$dir/$(echo "$s" | tr -c 'a-z0-9.\n' _); [ -f "$f" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$f" ;;
store) f=$(cat); s=$(echo "$f" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/'); echo "$f" > "$dir/$(echo "$s" | tr -c 'a-z0-9.\n' _)" ;;
erase) read -r s; rm -f "$dir/$(echo "$s" | tr -c 'a-z0-9.\n' _)" ;;
list) echo '{}' ;;
esac
`

// TestALoginAtARealRegistry: Debian's docker-registry with TLS and htpasswd at
// an address that nobody trusts by itself.
func TestALoginAtARealRegistry(t *testing.T) {
	harness.ExtraAddress(t, "192.0.2.77")
	o := &harness.RegistryOptions{Address: "192.0.2.77", Login: true, TLS: true}
	registry := harness.RegistryWith(t, o)
	image := registry + "/a/busybox:1"
	h := home{t, t.TempDir(), engine}
	h.fails("tls: failed to verify certificate: x509: certificate signed by unknown authority: add the authority's certificate to the system's or as /etc/hezi/certs.d/"+registry+"/ca.crt", "", "pull", image)
	ca, err := os.ReadFile(o.Authority)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certsDir(t, registry)+"/ca.crt", string(ca), 0o644)
	pushWithLogin(t, image, "me", "right")

	h.fails("pull access denied for "+registry+"/a/busybox, repository does not exist or may require 'docker login': ", "", "pull", image)
	h.fails("login attempt to https://"+registry+"/v2/ failed with status: 401 Unauthorized", "wrong", "login", "-u", "me", "--password-stdin", registry)
	h.fails("the --password-stdin option requires --username to be set", "right", "login", "--password-stdin", registry)
	h.succeeds("Login Succeeded", "right\n", "login", "-u", "me", "--password-stdin", registry)
	h.succeeds("Downloaded newer image", "", "pull", image)
	h.succeeds("WARNING! Using --password via the CLI is insecure", "", "login", "-u", "me", "-p", "right", registry)
	h.succeeds("Authenticating with existing credentials... [Username: me]", "", "login", registry)
	h.succeeds(`"User":"me"`, "", "registry", "test", "--format", "json", registry)
	h.succeeds("Untagged", "", "rmi", image)
	h.succeeds("Removing login credentials for "+registry, "", "logout", "https://"+registry+"/v1/")
	h.fails("pull access denied", "", "pull", image)
	h.fails("nobody is logged in: hezi login "+registry, "", "registry", "test", registry)

	// The same with a credential store, and with a helper for this registry.
	write(t, h.dir+"/docker-credential-test", helper, 0o755)
	for _, config := range []string{`{"credsStore":"test"}`, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, registry)} {
		if err := os.MkdirAll(h.dir+"/.docker", 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, h.dir+"/.docker/config.json", config, 0o600)
		h.succeeds("Login Succeeded", "right", "login", "-u", "me", "--password-stdin", registry)
		h.succeeds("", "", "pull", "-q", image)
		if b, _ := os.ReadFile(h.dir + "/.docker/config.json"); strings.Contains(string(b), "auth\":") {
			t.Errorf("the password is in the configuration: %s", b)
		}
		h.succeeds("Removing login credentials", "", "logout", registry)
		h.fails("pull access denied", "", "pull", image)
		h.succeeds("", "", "rmi", image)
	}
	// Docker's client on the same engine.
	docker := engine.Docker("login", "-u", "me", "--password-stdin", registry)
	docker.Env, docker.Stdin = append(docker.Env, "HOME="+t.TempDir()), strings.NewReader("right")
	if out, err := docker.CombinedOutput(); err != nil || !strings.Contains(string(out), "Login Succeeded") {
		t.Errorf("docker login: %v %s", err, out)
	}
}

func pushWithLogin(t *testing.T, image, user, password string) {
	t.Helper()
	img, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithTransport(insecureTransport())); err != nil {
		t.Fatal(err)
	}
}

// TestMirrorsOfARealRegistry: docker-registry as origin and as its cache.
func TestMirrorsOfARealRegistry(t *testing.T) {
	origin := harness.Registry(t)
	mirror := harness.RegistryWith(t, &harness.RegistryOptions{MirrorOf: "http://" + origin})
	img, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	harness.Push(t, origin, "a/busybox:1", img)
	image := origin + "/a/busybox:1"
	e := harness.Start(t)
	h := home{t, t.TempDir(), e}
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody listens there later
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	config := filepath.Join(e.Dir, "daemon.json")
	write(t, config, fmt.Sprintf(`{"registry-mirrors": {%q: ["http://%s", %q]}}`, origin, dead, mirror), 0o644)
	reload := func() {
		t.Helper()
		if err := syscall.Kill(e.PID(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	reload()
	var report struct {
		Endpoints []struct {
			URL, Answer   string
			Serves, First bool
		}
	}
	eventually(t, "mirrors after SIGHUP", func() error {
		out := e.Hezi("registry", "test", image, "--format", "{{.URL}} {{.Answer}} {{.Serves}}")
		want := fmt.Sprintf("http://%s connection refused no\nhttp://%s ok yes, first\nhttp://%s ok yes\n", dead, mirror, origin)
		if out.Code != 0 || out.Out != want {
			return fmt.Errorf("%d %s%s", out.Code, out.Out, out.Err)
		}
		return nil
	})
	h.succeeds("Mirror http://"+mirror+" serves this image", "", "pull", image)
	h.succeeds("", "", "rmi", image)
	h.succeeds("Mirror http://"+mirror+" serves this image", "", "pull", image)
	out, err := exec.Command("curl", "-sS", "--unix-socket", strings.TrimPrefix(e.Host, "unix://"), "http://x/hezi/registry/test?name="+image).Output()
	if err != nil || json.Unmarshal(out, &report) != nil || len(report.Endpoints) != 3 || report.Endpoints[2].URL != "http://"+dead || report.Endpoints[2].Serves || !report.Endpoints[0].First {
		t.Errorf("%s %v", out, err) // the dead one comes last for now
	}

	// A hosts.toml leads a registry that does not exist, until it is broken.
	dir := certsDir(t, "nowhere.invalid")
	write(t, dir+"/hosts.toml", fmt.Sprintf("[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror), 0o644)
	h.succeeds("Mirror http://"+mirror+" serves this image", "", "pull", "nowhere.invalid/a/busybox:1")
	write(t, dir+"/hosts.toml", "\n[host.\"http://"+mirror+"\"]\nskip_verifi = true\n", 0o644)
	h.fails(dir+"/hosts.toml: line 3: unknown key", "", "pull", "nowhere.invalid/a/busybox:1")
	h.fails(dir+"/hosts.toml: line 3: unknown key", "", "registry", "test", "nowhere.invalid")
	if out, err := exec.Command(filepath.Join(harness.Bin(), "hezid"), "--validate", "--config-file", config).CombinedOutput(); err == nil || !strings.Contains(string(out), "line 3: unknown key") {
		t.Errorf("hezid --validate: %v %s", err, out)
	}
	h.fails("nobody serves 127.0.0.1:1", "", "registry", "test", "127.0.0.1:1")

	six := harness.RegistryWith(t, &harness.RegistryOptions{Address: "::1"})
	harness.Push(t, six, "a/busybox:1", img)
	h.succeeds("Downloaded newer image for "+six+"/a/busybox:1", "", "pull", six+"/a/busybox:1")
	h.succeeds("http://"+six+" serves "+six, "", "registry", "test", six)
}

func insecureTransport() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the test's own registry
}

// TestSchema1 has skopeo push images as they were before 2016.
func TestSchema1(t *testing.T) {
	old := harness.RegistryWith(t, &harness.RegistryOptions{Schema1: true})
	archive, err := harness.BusyboxArchive()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(archive)
	image := old + "/a/busybox:1"
	if out, err := exec.Command("skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "--format", "v2s1", "docker-archive:"+archive, "docker://"+image).CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v %s", err, out)
	}
	h := home{t, t.TempDir(), harness.Start(t)}
	h.succeeds("[DEPRECATION NOTICE] "+image+" is of Docker Image manifest version 2, schema 1: it is converted", "", "pull", image)
	h.succeeds("Status: Image is up to date for "+image, "", "pull", image)
	h.succeeds("converted\n", "", "run", "--rm", "--network", "none", image, "echo", "converted")
	h.succeeds("[sh] amd64 linux 1\n", "", "inspect", "-f", "{{.Config.Cmd}} {{.Architecture}} {{.Os}} {{len .RootFS.Layers}}", image)
	out, ok := h.run("", "registry", "test", image, "--format", "{{.Digest}}")
	if !ok {
		t.Fatal(out)
	}
	byDigest := old + "/a/busybox@" + strings.TrimSpace(out)
	h.succeeds("it is converted", "", "pull", byDigest)
	h.succeeds("by digest\n", "", "run", "--rm", "--network", "none", byDigest, "echo", "by digest")
}
