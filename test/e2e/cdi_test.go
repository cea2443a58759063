package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/test/harness"
)

// TestCDI: a device of a specification comes with its node, environment and
// mount; what cannot be given is said.
func TestCDI(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"example.yaml": `
cdiVersion: 0.6.0
kind: example.com/device
devices:
  - name: one
    containerEdits:
      env: [ONE=from the device]
      deviceNodes:
        - {path: /dev/one, hostPath: /dev/fuse, permissions: r}
      mounts:
        - {hostPath: ` + dir + `, containerPath: /specs, options: [ro, rbind]}
  - name: hooked
    containerEdits:
      hooks:
        - {hookName: createContainer, path: /bin/true}
`,
		"gpu.json": `{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"all","containerEdits":{"env":["GPU=all"]}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := harness.Start(t, "--cdi-spec-dir", dir)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	script := `stat -c %t:%T /dev/one; echo $ONE; ls /specs; exec 3</dev/one && echo read; touch /specs/x 2>/dev/null || echo read-only; (exec 3<>/dev/one) 2>/dev/null || echo not written`
	want := "a:e5\nfrom the device\nexample.yaml\ngpu.json\nread\nread-only\nnot written"
	if got := e.Must(t, "run", "--rm", "--device", "example.com/device=one", "busybox", "sh", "-c", script); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	docker, err := e.Docker("run", "--rm", "--device", "example.com/device=one", "busybox", "sh", "-c", script).Output()
	if got := strings.TrimSpace(string(docker)); err != nil || got != want {
		t.Errorf("docker: %q, %v", got, err)
	}
	if got := e.Must(t, "run", "--rm", "--gpus", "all", "busybox", "sh", "-c", "echo $GPU"); got != "all" {
		t.Errorf("--gpus: %q", got)
	}
	for _, c := range []struct{ device, want string }{
		{"example.com/device=nosuch", "CDI device injection failed: unresolvable CDI devices example.com/device=nosuch"},
		{"example.com/device=hooked", "hooks"},
	} {
		if r := e.Hezi("run", "--rm", "--device", c.device, "busybox", "true"); r.Code != 125 || !strings.Contains(r.Err, c.want) {
			t.Errorf("%s: exit %d, %s", c.device, r.Code, r.Err)
		}
	}
	info := strings.TrimSpace(e.Must(t, "info", "-f", "{{.CDISpecDirs}} {{range .DiscoveredDevices}}{{.Source}}:{{.ID}} {{end}}"))
	if info != "["+dir+"] cdi:example.com/device=hooked cdi:example.com/device=one cdi:nvidia.com/gpu=all" {
		t.Error(info)
	}
	if err := os.Remove(filepath.Join(dir, "gpu.json")); err != nil {
		t.Fatal(err)
	}
	if r := e.Hezi("run", "--rm", "--gpus", "all", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Err, `could not select device driver "" with capabilities: [[gpu]]`) {
		t.Errorf("exit %d, %s", r.Code, r.Err)
	}
}
