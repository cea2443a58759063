package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// TestConfig: what the box's spec says is in the bundle.
func TestConfig(t *testing.T) {
	adj := -5
	s := &box.Spec{
		ID: "abc", Hostname: "h", Domainname: "d", Root: box.Root{ReadOnly: true}, Sysctl: map[string]string{"net/core/somaxconn": "9"},
		MaskedPaths: []string{"/m"}, ReadonlyPaths: []string{"/r"},
		Users:   &box.Users{UIDs: []box.IDMap{{Container: 0, Host: 1000, Size: 10}}, GIDs: []box.IDMap{{Container: 0, Host: 2000, Size: 20}}},
		Devices: []box.Device{{Path: "/dev/x", Type: "c", Major: 1, Minor: 2, Mode: 0o640, UID: 3, GID: 4}},
		Cgroup: box.Cgroup{DeviceRules: []box.DeviceRule{{Type: "b", Major: 8, Minor: -1, Access: "r"}}, Resources: box.Resources{Memory: 100, CPUQuota: 5, PidsLimit: 7,
			HugePages: &cgroup.HugePages{Limits: []cgroup.HugePage{{Size: "2MB", Bytes: 8 << 20}}}, IO: &cgroup.IO{Weight: 10, ReadBps: []cgroup.DeviceLimit{{Major: 8, Minor: 1, Value: 99}}}}},
		Process: box.Process{Args: []string{"a", "b"}, Env: []string{"A=b", "HOME="}, Cwd: "/w", Terminal: true, ConsoleHeight: 3, ConsoleWidth: 4, NoNewPrivileges: true, OOMScoreAdj: &adj,
			Rlimits: []box.Rlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}}},
	}
	mounts := []box.Mount{{Type: box.MountTmpfs, Target: "/t", NoSuid: true, Data: "size=1m,mode=700"}, {Type: box.MountBind, Source: "/s", Target: "/b", Recursive: true, ReadOnly: true, Propagation: "rslave"}, {Type: box.MountBind, Source: "/f", Target: "/g"}}
	c := config(s, &Launch{Annotations: map[string]string{"k": "v"}, Hooks: &specs.Hooks{Poststop: []specs.Hook{{Path: "/p"}}}}, "/root", mounts, box.Identity{UID: 5, GID: 6, Groups: []uint32{6, 7}, Home: "/home"}, "/parent/abc")
	for what, pair := range map[string][2]any{
		"root":        {*c.Root, specs.Root{Path: "/root", Readonly: true}},
		"cgroup":      {c.Linux.CgroupsPath, "/parent/abc"},
		"sysctl":      {c.Linux.Sysctl, map[string]string{"net.core.somaxconn": "9", "kernel.domainname": "d"}},
		"env":         {c.Process.Env, []string{"A=b", "HOME=/home"}},
		"user":        {c.Process.User, specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{6, 7}}},
		"console":     {*c.Process.ConsoleSize, specs.Box{Height: 3, Width: 4}},
		"limits":      {c.Process.Rlimits, []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}}},
		"ids":         {c.Linux.UIDMappings, []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}},
		"propagation": {c.Linux.RootfsPropagation, "rslave"},
		"mounts": {c.Mounts, []specs.Mount{{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "size=1m", "mode=700"}},
			{Destination: "/b", Type: "bind", Source: "/s", Options: []string{"rbind", "ro", "rslave"}}, {Destination: "/g", Type: "bind", Source: "/f", Options: []string{"bind", "rprivate"}}}},
		"memory":      {[]int64{*c.Linux.Resources.Memory.Limit, *c.Linux.Resources.Memory.Swap}, []int64{100, 200}},
		"pids":        {*c.Linux.Resources.Pids.Limit, int64(7)},
		"huge pages":  {c.Linux.Resources.HugepageLimits, []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 8 << 20}}},
		"read bps":    {c.Linux.Resources.BlockIO.ThrottleReadBpsDevice[0].Rate, uint64(99)},
		"annotations": {c.Annotations, map[string]string{"k": "v"}},
		"hooks":       {c.Hooks.Poststop[0].Path, "/p"},
		"device":      {*c.Linux.Devices[0].FileMode, os.FileMode(0o640)},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %+v, not %+v", what, pair[0], pair[1])
		}
	}
	rules := c.Linux.Resources.Devices
	if first, last := rules[0], rules[len(rules)-1]; first.Allow || first.Access != "rwm" || last.Type != "b" || *last.Major != 8 || last.Minor != nil || last.Access != "r" {
		t.Errorf("device rules: %+v", rules)
	}
	if all := deviceRules(&box.Cgroup{AllDevices: true}); len(all) != 1 || !all[0].Allow {
		t.Errorf("all devices: %+v", all)
	}
	if none := resources(&box.Resources{}); !reflect.DeepEqual(none, &specs.LinuxResources{}) {
		t.Errorf("no limits: %+v", none)
	}
}

func TestNamespaces(t *testing.T) {
	c := &specs.Spec{Linux: &specs.Linux{}}
	held, err := namespaces(c, &box.Spec{Namespaces: box.Namespaces{IPC: box.Namespace{Mode: box.NamespaceHost}, Net: box.Namespace{Mode: box.NamespaceJoin, Path: "/proc/self/ns/net"}}})
	if err != nil || len(held) != 1 {
		t.Fatal(held, err)
	}
	defer held[0].Close()
	got := map[specs.LinuxNamespaceType]string{}
	for _, n := range c.Linux.Namespaces {
		got[n.Type] = n.Path
	}
	path := got[specs.NetworkNamespace]
	delete(got, specs.NetworkNamespace)
	if want := map[specs.LinuxNamespaceType]string{specs.MountNamespace: "", specs.PIDNamespace: "", specs.UTSNamespace: "", specs.CgroupNamespace: ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	its, err := os.Readlink(path)
	if ours, _ := os.Readlink("/proc/self/ns/net"); err != nil || its != ours {
		t.Errorf("%s is %s, %v, not %s", path, its, err, ours)
	}
}

// TestFailure: a runtime's words, and the exit codes that they mean.
func TestFailure(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	lines := `{"level":"warning","msg":"w"}` + "\n" + `{"level":"error","msg":"first"}` + "\nnot json\n" + `{"level":"error","msg":"last\nline\u001b[31m"}` + "\n"
	if err := os.WriteFile(log, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := said(log, strings.NewReader("other")); got != "last line[31m" {
		t.Errorf("the log: %q", got)
	}
	if got := said("/nowhere", strings.NewReader(" words \n")); got != "words" {
		t.Errorf("standard error: %q", got)
	}
	if got := said("/nowhere", strings.NewReader(strings.Repeat("x", 1<<20))); len(got) != maxWords {
		t.Errorf("%d bytes of standard error", len(got))
	}
	for text, code := range map[string]int{
		`exec: "x": executable file not found in $PATH`: 127, "executable file `x` not found in $PATH: No such file or directory": 127,
		"open executable: Permission denied": 126, "starting sandbox: creating process: failed to load /etc: permission denied": 126, `exec: "/": is a directory`: 126, "mount: not a directory": 127, "cgroup: device or resource busy": 125,
	} {
		var e *box.Error
		if err := (&call{runtime: &Runtime{Name: "r"}, verb: "create"}).failure(text, nil); !errors.As(err, &e) || e.ExitCode != code || !strings.HasPrefix(e.Message, "OCI runtime create failed: "+text) {
			t.Errorf("%q: %+v", text, err)
		}
	}
	for _, text := range []string{"open executable: Permission denied", "starting sandbox: creating process: failed to load /etc: permission denied"} {
		err := (&call{runtime: &Runtime{Name: "r"}, verb: "start", program: "/etc"}).failure(text, nil)
		if want := `: exec: "/etc": permission denied`; !strings.HasSuffix(err.Error(), want) { // by which a client knows that the program is meant
			t.Errorf("%q is not the end of: %v", want, err)
		}
	}
	usage := "Usage: runsc <flags> <subcommand> <subcommand args>\n\nSubcommands:\n\tcheckpoint  ...\n" + strings.Repeat("x", 3000)
	for _, verb := range []string{"update", "start"} {
		err := (&call{runtime: &Runtime{Name: "r"}, verb: verb}).failure(said("/nowhere", strings.NewReader(usage)), nil)
		if want := "OCI runtime " + verb + " failed: the runtime r answers with its usage: it does not know the command " + verb + ", or an option of it"; err.Error() != want {
			t.Errorf("a command that the runtime does not have: %v", err)
		}
	}
	var e *box.Error
	_, err := exec.LookPath("/nowhere/runtime")
	if err := (&call{runtime: &Runtime{Name: "r", Path: "/nowhere/runtime"}, verb: "create"}).failure("", err); !errors.As(err, &e) || e.ExitCode != 125 || strings.Contains(e.Message, "no such file") {
		t.Errorf("a runtime that is not there: %v", err)
	}
}

func TestArgv(t *testing.T) {
	q := &call{runtime: &Runtime{Path: "/r", Args: []string{"--a", "b"}, Root: "/state"}, verb: "kill", args: []string{"--all"}}
	if got := strings.Join(q.argv("/log", "id", "9"), " "); got != "/r --a b --root /state --log /log --log-format json kill --all id 9" {
		t.Error(got)
	}
	q.runtime.Systemd = true
	if got := strings.Join(q.argv("/log", "id"), " "); got != "/r --a b --root /state --log /log --log-format json --systemd-cgroup kill --all id" {
		t.Error(got)
	}
}

// TestScope: the runtime makes the scope that the engine knows.
func TestScope(t *testing.T) {
	c := &Client{}
	for parent, want := range map[string]string{"/system.slice": "system.slice:hezi:abc", "/my.slice/my-own.slice": "my-own.slice:hezi:abc", "/": "-.slice:hezi:abc"} {
		at, err := c.place(&box.Spec{ID: "abc", Cgroup: box.Cgroup{Parent: parent, Foreign: true, Scope: cgroup.ScopeName("abc")}})
		if err != nil || at != (place{parent: parent, leaf: "hezi-abc.scope", told: want, systemd: true}) {
			t.Errorf("%s: %+v, %v", parent, at, err)
		}
	}
}

// TestInner: a runtime that is not there while it is asked what its exec can do is asked again.
func TestInner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runtime")
	c := &Client{log: slog.New(slog.DiscardHandler)}
	for _, v := range []struct{ script, v1, v2 string }{
		{"", "", ""},
		{"test \"$1 $2\" = 'exec --help' && echo '--cgroup PATH, --cgroup [<controller>:]<cgroup>'", "freezer:exec-1", "exec-1"},
		{"exit 1", "freezer:exec-1", "exec-1"}, // it has said it
	} {
		if v.script != "" {
			if err := errors.Join(os.WriteFile(path+".new", []byte("#!/bin/sh\n"+v.script+"\n"), 0o755), os.Rename(path+".new", path)); err != nil {
				t.Fatal(err)
			}
		}
		v1 := c.inner(context.Background(), &Runtime{Path: path}, map[string]string{"freezer": "/f", "memory": "/m"}, "exec-1")
		v2 := c.inner(context.Background(), &Runtime{Path: path}, map[string]string{"": "/g"}, "exec-1")
		if v1 != v.v1 || v2 != v.v2 {
			t.Errorf("%s: %q and %q, not %q and %q", v.script, v1, v2, v.v1, v.v2)
		}
	}
}

// TestLaunch: what the engine says reaches the keeper whole.
func TestLaunch(t *testing.T) {
	l := Launch{Runtime: Runtime{Name: "n", Path: "p", Args: []string{"a"}, Root: "/r"}, Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, Annotations: map[string]string{"k": "v"}}
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var back Launch
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(l, back) {
		t.Errorf("%s: %+v, %v", text, back, err)
	}
}
