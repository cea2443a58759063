package box

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a process of a box shows of itself and of what is around it.
const postureScript = `sed -e 's/^[0-9]* [0-9]* [^ ]* //' /proc/self/mountinfo
grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups|Sig(Blk|Ign)|Umask|PPid|Speculation|THP)' /proc/$$/status
ls /proc/$$/fd
for f in /dev/*; do echo $f $(stat -c '%a %u:%g %t:%T %N' $f); done
for n in cgroup ipc mnt net pid time user uts; do readlink /proc/$$/ns/$n; done
sed -e 's/^[0-9]*//' /proc/self/cgroup
cat /proc/$$/uid_map /proc/$$/gid_map /proc/$$/setgroups
cat /proc/$$/limits /proc/$$/oom_score_adj /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us
mknod /tmp/sda b 8 0; cat /tmp/sda; rm -f /tmp/sda
for f in /sys/class/net/lo/ifalias /proc/sys/net/ipv4/ip_forward /etc/new; do (echo 1 > $f) 2>/dev/null && echo "wrote $f"; done
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/kcore /proc/keys /sys/kernel/uevent_helper /proc/1/oom_score_adj; do (: < $f) 2>/dev/null && echo "reads $f"; [ -w $f ] && echo "may write $f"; done
for a in current exec fscreate keycreate sockcreate; do echo "$a: $(cat /proc/$$/attr/$a 2>&1)"; done
for f in personality coredump_filter loginuid timerslack_ns; do echo "$f: $(cat /proc/$$/$f 2>&1)"; done
for d in /sys/fs/cgroup/devices/devices.list /sys/fs/cgroup/freezer/freezer.state; do sort $d; done
[ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo 'leads a session'
for n in 1 2; do echo $n: $(stat -L -c '%F %t:%T' /proc/$$/fd/$n); done
cat /proc/1/environ | tr '\0' '\n' | grep -v -e ^HOME= -e ^PATH= -e ^TERM=
ls -ld / /proc /sys /dev /dev/pts /dev/shm /tmp | sed -e 's/^\([^ ]*\) *[0-9]* *\([^ ]*\) *\([^ ]*\) .* /\1 \2 \3 /'
pwd; hostname; tty; env | sort`

// explained are the differences from runc, each with its reason.
var explained = []string{
	" / rw,relatime - ", " / ro,relatime - ", // the root: an overlay here, a bind of the directory under runc
	"/sys/fs/cgroup",              // runc shows all hierarchies of the host, we those of the engine
	"/null /proc/",                // masked files: the host's verified /dev/null here, the box's own under runc
	"tmpfs tmpfs",                 // masked directories: also nosuid,nodev,noexec here
	"/ /sys ro",                   // runc makes the superblock read-only too; it may be shared, so only the mount is here
	"/proc/sysrq-trigger",         // absent on kernels without it
	"SigIgn:",                     // runc hands on what its parent ignores, a box has the defaults
	"c 10:200 rwm",                // /dev/net/tun, which newer versions of runc do not allow either
	"c 5:1 rwm",                   // /dev/console, which Docker's rules allow
	":cpu,cpuacct:", "0::", "::/", // the hybrid hierarchy, which is not ours
}

// mappedToo are those of a user namespace: the devices are the box's own, and its
// root's, here; runc binds those of the host. The ipc namespace is made by who
// starts the box here, and so is the folder of message queues.
var mappedToo = []string{" - devtmpfs devtmpfs rw", "/dev/full 666 ", "/dev/null 666 ", "/dev/random 666 ", "/dev/tty 666 ", "/dev/urandom 666 ", "/dev/zero 666 ", "/dev/mqueue 1777 "}

// posture is one way to start a process, here and by runc.
type posture struct {
	name     string
	change   func(*Spec)
	exec     func(*Process) // not nil: an exec in that box is compared
	terminal bool
}

// TestPosture compares processes of boxes with those that runc makes of the
// same description.
func TestPosture(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal("install runc: it is the reference of this test")
	}
	root := image(t)
	for _, name := range []string{"sed", "sort", "rm", "tr", "cut"} {
		if err := os.Symlink("busybox", root+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root+"/tmp", 0o1777); err != nil {
		t.Fatal(err)
	}
	for _, c := range postures() {
		t.Run(c.name, func(t *testing.T) {
			spec := func() *Spec {
				s := boxSpec(t, root, "sh", "-c", postureScript)
				s.Process.Seccomp = []byte{0x06, 0, 0, 0, 0, 0, 0xff, 0x7f} // allow everything
				c.change(s)
				if c.exec != nil {
					s.Process.Args = []string{"sleep", "100"}
				}
				return s
			}
			reference, ours := lines(byRunc(t, runc, root, spec(), c)), lines(byUs(t, spec(), c))
			if len(ours) < 60 {
				t.Fatalf("only %q", ours)
			}
			known := explained
			if spec().Users != nil {
				known = slices.Concat(explained, mappedToo)
			}
			report(t, "only under runc", reference, ours, known)
			report(t, "only here", ours, reference, known)
		})
	}
}

func postures() []posture {
	privileged := func(s *Spec) {
		s.MaskedPaths, s.ReadonlyPaths, s.Cgroup.AllDevices = nil, nil, true
		all(&s.Process)
		s.Process.Seccomp = nil
		for i := range s.Mounts {
			s.Mounts[i].ReadOnly = false
		}
		s.Devices = []Device{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o640, UID: 5, GID: 6}}
	}
	user := func(s *Spec) { s.Process.User = "ann" }
	plain := func(*Spec) {}
	mapped := func(s *Spec) {
		s.Users = &Users{UIDs: []IDMap{{0, base, 65536}}, GIDs: []IDMap{{0, base, 65536}}}
	}
	return []posture{
		{name: "default", change: plain},
		{name: "privileged", change: privileged},
		{name: "read-only", change: func(s *Spec) {
			s.Root.ReadOnly = true
			s.Mounts = append(s.Mounts, Mount{Type: MountTmpfs, Target: "/tmp", NoSuid: true, NoDev: true, NoExec: true, Data: "size=64k"})
		}},
		{name: "user", change: user},
		{name: "no new privileges", change: func(s *Spec) { s.Process.NoNewPrivileges = true }},
		{name: "limits", change: func(s *Spec) {
			adj := 100
			s.Process.Rlimits = []Rlimit{{"RLIMIT_NOFILE", 100, 200}, {"RLIMIT_CORE", 0, 0}}
			s.Process.OOMScoreAdj = &adj
			s.Cgroup.Resources = Resources{Memory: 64 << 20, PidsLimit: 50, CPUQuota: 50_000, CPUPeriod: 100_000}
		}},
		{name: "terminal", change: func(s *Spec) { s.Process.Terminal = true }, terminal: true},
		{name: "exec", change: plain, exec: func(*Process) {}},
		{name: "exec as a user", change: plain, exec: func(p *Process) { p.User, p.Cwd = "ann", "/tmp" }},
		{name: "exec privileged", change: plain, exec: all},
		{name: "exec with a terminal", change: plain, exec: func(p *Process) { p.Terminal = true }, terminal: true},
		{name: "user namespace", change: mapped},
		{name: "user namespace as a user", change: func(s *Spec) { mapped(s); user(s) }},
		{name: "user namespace with a terminal", change: func(s *Spec) { mapped(s); s.Process.Terminal = true }, terminal: true},
		{name: "exec in a user namespace", change: mapped, exec: func(*Process) {}},
		{name: "exec in a user namespace as a user", change: mapped, exec: func(p *Process) { p.User, p.Cwd = "ann", "/tmp" }},
		{name: "exec in a user's box", change: user, exec: func(*Process) {}},
		{name: "exec in a read-only box", change: func(s *Spec) { s.Root.ReadOnly = true }, exec: func(*Process) {}},
		{name: "exec in a privileged box", change: privileged, exec: all},
		{name: "privileged with a terminal", change: func(s *Spec) { privileged(s); s.Process.Terminal = true }, terminal: true},
		{name: "read-only in a user namespace", change: func(s *Spec) { mapped(s); s.Root.ReadOnly = true }},
		{name: "privileged exec in a user namespace", change: mapped, exec: all},
		{name: "exec with a terminal in a user namespace", change: mapped, exec: func(p *Process) { p.Terminal = true }, terminal: true},
		{name: "exec with no new privileges", change: func(s *Spec) { s.Process.NoNewPrivileges = true }, exec: func(*Process) {}},
	}
}

// all is what --privileged gives to a process.
func all(p *Process) {
	var names []string
	for name := range capabilities {
		if n := capabilities[name]; hostHas(n) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	p.Capabilities = Capabilities{Bounding: names, Effective: names, Permitted: names}
}

func hostHas(n uint) bool {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
	return err == nil && has == 1
}

func byUs(t *testing.T, spec *Spec, c posture) string {
	if c.exec == nil && !c.terminal {
		out, _ := run(t, spec)
		return out
	}
	if c.exec == nil {
		p, err := testRuntime.Start(t.Context(), spec, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		out := readConsole(t, p)
		await(t, p)
		removeGroup(t, p)
		return out
	}
	box := start(t, spec)
	p := spec.Process
	p.Args = []string{"sh", "-c", postureScript}
	c.exec(&p)
	if !c.terminal {
		out, _ := execIn(t, box, &p)
		return out
	}
	e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	out := readConsole(t, e)
	await(t, e)
	return out
}

// byRunc does the same by runc; script(1) lends it a terminal.
func byRunc(t *testing.T, runc, root string, spec *Spec, c posture) string {
	dir, id := bundleOf(t, spec, root, false), spec.ID[:32]
	command := []string{runc, "run", "-b", dir, id}
	if c.exec != nil {
		if err := exec.Command(runc, "run", "-d", "-b", dir, id).Run(); err != nil { // no pipe: the box would hold it
			t.Fatalf("runc: %v", err)
		}
		t.Cleanup(func() {
			if out, err := exec.Command(runc, "delete", "-f", id).CombinedOutput(); err != nil {
				t.Errorf("runc delete: %v: %s", err, out)
			}
		})
		p := spec.Process
		p.Args = []string{"sh", "-c", postureScript}
		c.exec(&p)
		command = []string{runc, "exec", "-p", processFile(t, &p), id}
	}
	if c.terminal {
		command = []string{"script", "-qec", strings.Join(command, " "), "/dev/null"}
	}
	// Input that ends would have script type an end of file, which the terminal may echo.
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer typed.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = in
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("runc: %v: %s", err, out)
	}
	return string(out)
}

func lines(text string) []string {
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\r", "")), "\n")
}

func report(t *testing.T, what string, have, reference, explained []string) {
	t.Helper()
	for _, line := range have {
		if slices.Contains(reference, kindOf(line)) || slices.ContainsFunc(explained, func(e string) bool { return strings.Contains(line, e) }) {
			continue
		}
		if k := kindOf(line); k != line && slices.ContainsFunc(reference, func(r string) bool { return kindOf(r) == k }) {
			continue
		}
		t.Errorf("%s: %s", what, line)
	}
}

// kindOf says of a namespace whether it is the host's.
func kindOf(line string) string {
	name, _, ok := strings.Cut(line, ":[")
	if !ok {
		return line
	}
	host, err := os.Readlink("/proc/self/ns/" + name)
	switch {
	case err != nil:
		return line
	case host == line:
		return name + ": the host's"
	}
	return name + ": its own"
}
