package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hezi/test/harness"
)

const composeFile = `
version: "3.8"
services:
  web:
    image: busybox
    command: httpd -f -h /srv
    volumes: ["./page:/srv:ro", "data:/data"]
    environment: {SAID: by the environment}
    healthcheck: {test: [CMD, wget, -qO-, "http://localhost/"], interval: 1s}
    restart: unless-stopped
    networks: [front]
  client:
    image: busybox
    command: sh -c "wget -qO- http://web/ && exec sleep 1000"
    depends_on: {web: {condition: service_healthy}}
    networks: [front]
volumes: {data: {}}
networks: {front: {}}
`

// TestCompose: Docker's Compose, of Debian and called by hezi, brings up two services of which one
// waits for the other's health and finds it by its name, and takes them down.
func TestCompose(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "composed")
	if err := os.MkdirAll(filepath.Join(dir, "page"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"docker-compose.yml": composeFile, "page/index.html": "a page\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compose := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(harness.Bin(), "hezi"), append([]string{"compose"}, args...)...)
		cmd.Dir, cmd.Env = dir, engine.Env()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("hezi compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	expect := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
	}
	t.Cleanup(func() { compose("down", "-v") })
	compose("up", "-d")
	compose("up", "-d", "--scale", "client=3")
	for start := time.Now(); strings.Count(compose("logs", "--no-color", "client"), "a page") != 3; time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("the clients did not get the page:\n%s", compose("logs"))
		}
	}
	expect(compose("ps", "web"), "Up (healthy)")
	expect(compose("exec", "-T", "web", "sh", "-c", "echo $SAID"), "by the environment")
	expect(compose("exec", "-T", "client", "nslookup", "web"), "Address")
	if got := len(strings.Fields(compose("ps", "-q", "client"))); got != 3 {
		t.Errorf("%d clients, not 3", got)
	}
	compose("restart", "web")
	expect(compose("top", "web"), "httpd -f -h /srv")
	compose("down", "-v")
	for _, list := range [][]string{{"ps", "-aq", "--filter", "label=com.docker.compose.project=composed"}, {"network", "ls", "-q", "--filter", "name=composed"}, {"volume", "ls", "-q", "--filter", "name=composed"}} {
		if got := engine.Must(t, list...); got != "" {
			t.Errorf("%v after down: %s", list, got)
		}
	}
}
