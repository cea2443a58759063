package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	} {
		if r := e.Hezi("run", "--rm", "--device", c.device, "busybox", "true"); r.Code != 125 || !strings.Contains(r.Err, c.want) {
			t.Errorf("%s: exit %d, %s", c.device, r.Code, r.Err)
		}
	}
	info := strings.TrimSpace(e.Must(t, "info", "-f", "{{.CDISpecDirs}} {{range .DiscoveredDevices}}{{.Source}}:{{.ID}} {{end}}"))
	if info != "["+dir+"] cdi:example.com/device=one cdi:nvidia.com/gpu=all" {
		t.Error(info)
	}
	if err := os.Remove(filepath.Join(dir, "gpu.json")); err != nil {
		t.Fatal(err)
	}
	if r := e.Hezi("run", "--rm", "--gpus", "all", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Err, `could not select device driver "" with capabilities: [[gpu]]`) {
		t.Errorf("exit %d, %s", r.Code, r.Err)
	}
}

// TestCDIHooks: what a device's hooks do is there when the program runs, at each
// start; one that fails or hangs fails the start; those of the end run at the end,
// also when the engine did not see it.
func TestCDIHooks(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	kinds := ""
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"} {
		more := ""
		if kind == "createContainer" { // as a vendor's does: it finds the root file system by the bundle
			more = `; root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$(sed 's/.*"bundle":"\([^"]*\)".*/\1/' state.$$)/config.json"); echo of the device > $root/etc/device.conf; test -e $root/proc/self/status`
		}
		kinds += `        - {hookName: ` + kind + `, path: /bin/sh, args: [sh, -c, 'set -e; PATH=/bin:/usr/bin; cd ` + dir + `; cat > state.$$; echo ` + kind + ` $OWN $HOME $(sed ''s/.*"status":"\([a-z]*\)".*/\1/'' state.$$) >> log` + strings.ReplaceAll(more, "'", "''") + `'], env: [OWN=own]}
`
	}
	spec := `
cdiVersion: 0.6.0
kind: example.com/hook
devices:
  - name: all
    containerEdits:
      hooks:
` + kinds + `        - {hookName: startContainer, path: /bin/sh, args: [sh, -c, 'id -u > /tmp/started']}
  - name: fails
    containerEdits: {hooks: [{hookName: createContainer, path: /bin/sh, args: [sh, -c, 'echo no way; exit 3']}, {hookName: poststop, path: /bin/sh, args: [sh, -c, 'echo undone >> ` + log + `']}]}
  - name: pries
    containerEdits: {hooks: [{hookName: startContainer, path: /bin/sh, args: [sh, -c, 'echo kept out > /tmp/pried; if (: < /proc/1/mem) 2> /dev/null; then echo reached > /tmp/pried; fi']}]}
  - name: slow
    containerEdits: {hooks: [{hookName: poststop, path: /bin/sh, args: [sh, -c, 'echo slow >> ` + log + `; while ! test -e ` + dir + `/go; do /bin/sleep 0.05; done']}]}
  - name: hangs
    containerEdits: {hooks: [{hookName: createContainer, path: /bin/sh, args: [sh, -c, 'echo asleep; sleep 100'], timeout: 1}]}
  - name: late
    containerEdits: {hooks: [{hookName: poststart, path: /bin/sh, args: [sh, -c, 'echo too late; exit 1']}]}
  - name: inside
    containerEdits: {hooks: [{hookName: startContainer, path: /bin/sh, args: [sh, -c, 'echo $(id -u) $(grep -c 0000000000000000 /proc/self/status); exit 4']}]}
`
	if err := os.WriteFile(filepath.Join(dir, "hook.yaml"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	e := configured(t, `{"userns-auto-range": "700000:196608", "cdi-spec-dirs": ["`+dir+`"]}`)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	said := func(what string, want ...string) {
		t.Helper()
		text, err := os.ReadFile(log)
		for began := time.Now(); time.Since(began) < time.Minute && strings.Count(string(text), "\n") < len(want); text, err = os.ReadFile(log) {
			time.Sleep(20 * time.Millisecond) // the hooks of an end are not waited for
		}
		if got := strings.Split(strings.TrimSpace(string(text)), "\n"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
		if err := os.Remove(log); err != nil {
			t.Error(err)
		}
	}
	bundles := filepath.Join(e.Dir, "run", "hooks")
	empty := func(what string) {
		t.Helper()
		left, err := os.ReadDir(bundles)
		for began := time.Now(); time.Since(began) < time.Minute && len(left) > 0; left, err = os.ReadDir(bundles) {
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", what, left, err)
		}
	}
	begun := []string{"prestart own creating", "createRuntime own creating", "createContainer own creating", "poststart own running"}
	all := append(slices.Clip(begun), "poststop own stopped")
	const script = "cat /etc/device.conf /tmp/started; test -e /etc/hostname; ls -d " + "/etc/cdi-not-here 2>/dev/null; cat /proc/self/mountinfo | grep -c hooks/"
	for _, more := range [][]string{{}, {"--read-only", "--tmpfs", "/tmp"}, {"--init"}, {"-u", "33"}, {"--userns", "auto:size=1000"}, {"--pid", "host"}} {
		args := append([]string{"run", "--rm", "--device", "example.com/hook=all"}, more...)
		uid := "0"
		if len(more) > 0 && more[0] == "-u" {
			uid = "33"
		}
		if len(more) > 0 && more[0] == "--userns" { // root inside may not write to the log
			if err := os.WriteFile(log, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			for path, mode := range map[string]os.FileMode{e.Dir: 0o711, filepath.Dir(dir): 0o711, dir: 0o777, log: 0o666} {
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
			}
		}
		states, err := filepath.Glob(filepath.Join(dir, "state.*")) // of the one before, which had the same numbers
		for _, s := range states {
			err = errors.Join(err, os.Remove(s))
		}
		if err != nil {
			t.Fatal(err)
		}
		r := e.Hezi(append(args, "busybox", "sh", "-c", script)...)
		if want := "of the device\n" + uid + "\n0\n"; r.Out != want {
			t.Errorf("%v: exit %d, %q %s; want %q", more, r.Code, r.Out, r.Err, want)
		}
		await(t, e, is(""), "ps", "-aq")
		said(strings.Join(more, " "), all...)
		empty("run")
	}
	for device, want := range map[string]string{
		"fails": "the createContainer hook /bin/sh failed: exit status 3: no way", "hangs": "the createContainer hook /bin/sh failed: it did not end within 1 s: asleep",
		"late": "the poststart hook /bin/sh failed: exit status 1: too late", "inside": "the startContainer hook /bin/sh failed: exit status 4: 33",
	} {
		if r := e.Hezi("run", "--rm", "-u", "33", "--device", "example.com/hook="+device, "busybox", "sleep", "100"); r.Code != 125 || !strings.Contains(r.Err, want) {
			t.Errorf("%s: exit %d, %s", device, r.Code, r.Err)
		}
		if device == "fails" {
			said(device, "undone")
		}
		await(t, e, is(""), "ps", "-aq")
		empty(device)
	}
	// Each start anew; the end is told to an engine that was away.
	e.Must(t, "run", "-d", "--name", "again", "--device", "example.com/hook=all", "busybox", "sleep", "1000")
	said("start", begun...)
	e.Must(t, "restart", "-t", "0", "again")
	said("restart", append([]string{"poststop own stopped"}, begun...)...)
	if got := e.Must(t, "exec", "again", "cat", "/etc/device.conf"); got != "of the device" {
		t.Errorf("exec: %q", got)
	}
	pid := e.Must(t, "inspect", "-f", "{{.State.Pid}}", "again")
	e.Kill()
	if n, err := strconv.Atoi(pid); err != nil || syscall.Kill(n, syscall.SIGKILL) != nil {
		t.Fatalf("kill %s: %v", pid, err)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	await(t, e, is("exited"), "inspect", "-f", "{{.State.Status}}", "again")
	said("an end that the engine did not see", "poststop own stopped")
	empty("the end")
	// A hook has the container's capabilities, and does not reach init by them.
	for _, more := range [][]string{{}, {"--cap-add", "ALL"}, {"--privileged"}} {
		want := "kept out\n"
		if slices.Contains(more, "--privileged") {
			want = "reached\n" // as a privileged program could
		}
		args := append([]string{"run", "--rm", "--cap-add", "SYS_PTRACE", "--device", "example.com/hook=pries"}, more...)
		if r := e.Hezi(append(args, "busybox", "cat", "/tmp/pried")...); r.Out != want {
			t.Errorf("%v: exit %d, %q %s; want %q", more, r.Code, r.Out, r.Err, want)
		}
	}
	// The hooks of an end lock nothing, and run once though the engine is killed.
	slow := func(n int) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for text, _ := os.ReadFile(log); strings.Count(string(text), "slow") != n; text, _ = os.ReadFile(log) {
			if time.Now().After(deadline) {
				t.Fatalf("%q, want slow %d times", text, n)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for _, name := range []string{"slow1", "slow2"} {
		e.Must(t, "run", "-d", "--name", name, "--device", "example.com/hook=slow", "busybox", "sleep", "1000")
	}
	e.Must(t, "stop", "-t", "0", "slow1")
	slow(1)
	e.Must(t, "rename", "slow1", "slow3") // takes the lock
	e.Must(t, "stop", "-t", "0", "slow2")
	slow(2)
	e.Kill()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if got := e.Must(t, "inspect", "-f", "{{.State.Status}}", "slow3", "slow2"); got != "exited\nexited" {
		t.Error(got)
	}
	e.Must(t, "start", "slow3") // waits for what it had
	left, err := os.ReadDir(bundles)
	if err != nil || len(left) != 1 {
		t.Errorf("bundles %v, %v", left, err)
	}
	slow(2)
}
