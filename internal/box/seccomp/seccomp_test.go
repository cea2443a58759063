package seccomp

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	moby "github.com/moby/profiles/seccomp"
	"golang.org/x/sys/unix"
)

const helperVariable = "HEZI_SECCOMP_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		underFilter(name)
	}
	code := m.Run()
	if path, err := reference(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// underFilter loads a program and tries some calls.
func underFilter(name string) {
	runtime.LockOSThread()
	p := Default()
	var caps []string
	if name == "admin" {
		caps = []string{"CAP_SYS_ADMIN"}
	}
	text, flags, err := Compile(p, caps, runtime.GOARCH)
	if err != nil {
		panic(err)
	}
	filter := make([]unix.SockFilter, len(text)/8)
	for i := range filter {
		b := text[8*i:]
		filter[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	flags |= unix.SECCOMP_FILTER_FLAG_TSYNC // the test has threads
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog))); e != 0 {
		panic(e)
	}
	errno := func(nr uintptr, args ...uintptr) string {
		args = append(args, 0, 0, 0)
		_, _, e := unix.Syscall(nr, args[0], args[1], args[2])
		return e.Error()
	}
	out := []string{
		"getpid " + errno(unix.SYS_GETPID),
		"personality " + errno(unix.SYS_PERSONALITY, 0xffffffff),
		"personality2 " + errno(unix.SYS_PERSONALITY, 0x1234),
		"unshare " + errno(unix.SYS_UNSHARE, 0),
		"clone3 " + errno(unix.SYS_CLONE3),
		"reboot " + errno(unix.SYS_REBOOT),
		"future " + errno(2000),
		"vsock " + errno(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	}
	os.Stdout.WriteString(strings.Join(out, "\n") + "\n")
	os.Exit(0)
}

// TestProcess runs a real process under the default profile.
func TestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const eperm, enosys = "operation not permitted", "function not implemented"
	for name, want := range map[string][]string{
		"plain": {"getpid errno 0", "personality errno 0", "personality2 " + eperm, "unshare " + eperm, "clone3 " + enosys, "reboot " + eperm, "future " + enosys, "vsock " + eperm},
		"admin": {"getpid errno 0", "unshare errno 0", "clone3 invalid argument", "future " + enosys},
	} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), helperVariable+"="+name)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, line := range want {
			if !slices.Contains(strings.Split(string(out), "\n"), line) {
				t.Errorf("%s: %q is not in\n%s", name, line, out)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		program, flags, err := Compile(Default(), Default().caps, arch)
		if err != nil || len(program)/8 > 2000 || flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
			t.Errorf("%s: %d instructions, flags %#x, %v", arch, len(program)/8, flags, err)
		}
		t.Logf("%s: %d instructions", arch, len(program)/8)
	}
	if program, _, err := Compile(nil, nil, "amd64"); program != nil || err != nil {
		t.Errorf("unconfined: %v, %v", program, err)
	}
	if _, _, err := Compile(Default(), nil, "riscv64"); err == nil {
		t.Error("an architecture without a table was taken")
	}
}

func TestCache(t *testing.T) {
	a, _, _ := Compile(Default(), []string{"CAP_SYS_ADMIN", "CAP_CHOWN"}, "amd64")
	b, _, _ := Compile(Default(), []string{"CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_ADMIN"}, "amd64")
	c, _, _ := Compile(Default(), nil, "amd64")
	if &a[0] != &b[0] || &a[0] == &c[0] {
		t.Error("the cache's key is wrong: capabilities that the profile asks for, and no others, make a difference")
	}
	for i := range 2 * cacheSize {
		p := newProfile(moby.Seccomp{}, strings.Repeat("x", i))
		p.moby.DefaultAction = "SCMP_ACT_ALLOW"
		if _, _, err := Compile(p, nil, "amd64"); err != nil {
			t.Fatal(err)
		}
	}
	if len(cache.programs) > cacheSize {
		t.Errorf("the cache has %d programs", len(cache.programs))
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"{":  "line 1",
		"{}": "no defaultAction",
		"{\n\"defaultAction\": \"SCMP_ACT_ALLOW\",\n}":         "line 3",
		`{"defaultAction":"SCMP_ACT_NONE"}`:                    "unknown action",
		`{"defaultAction":"SCMP_ACT_NOTIFY"}`:                  "listening agent",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}`: "null",
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}`:                    "both 'architectures' and 'archMap'",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"read","names":["write"],"action":"SCMP_ACT_ERRNO"}]}`:                          "both 'name' and 'names'",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`: "argument 6",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"op":"SCMP_CMP_XX"}]}]}`: "SCMP_CMP_XX",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	p, err := Parse([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"name":"mkdirat","action":"SCMP_ACT_ERRNO","errnoRet":17},{"names":["nosuchcall"],"action":"SCMP_ACT_ERRNO"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	program, flags, err := Compile(p, nil, "amd64")
	if err != nil || flags != unix.SECCOMP_FILTER_FLAG_LOG {
		t.Fatal(flags, err)
	}
	for nr, want := range map[uint32]uint32{258: unix.SECCOMP_RET_ERRNO | 17, 0: unix.SECCOMP_RET_ALLOW, 2000: unix.SECCOMP_RET_ALLOW} {
		if got := interpret(t, program, &data{nr: nr, arch: unix.AUDIT_ARCH_X86_64}); got != want {
			t.Errorf("call %d: %#x, want %#x", nr, got, want)
		}
	}
}

// TestHostile: profiles that would take much memory, or mean nothing, are
// refused; what is odd but harmless is taken.
func TestHostile(t *testing.T) {
	profile := func(rule string, times int) string {
		return `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[` + strings.TrimSuffix(strings.Repeat(rule+",", times), ",") + "]}"
	}
	args := `{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":9223372036854775808,"op":"SCMP_CMP_GT"}`
	many := `"read"` + strings.Repeat(`,"read"`, 1000)
	for name, c := range map[string]struct{ text, want string }{
		"many rules":       {profile(`{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[`+args+`]}`, 5000), "too large"},
		"many names":       {profile(`{"names":[`+many+`],"action":"SCMP_ACT_ERRNO","args":[`+args+`]}`, 100), "too large"},
		"a listener":       {`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}`, "listener"},
		"a null rule":      {profile("null", 1), "null"},
		"a large argument": {profile(`{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":4294967296,"op":"SCMP_CMP_EQ"}]}`, 1), "argument 4294967296"},
		"a large errno":    {profile(`{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":70000}`, 1), "above 4095"},
		"a bad kernel":     {profile(`{"names":["read"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"x"}}`, 1), "invalid kernel version"},
		"another flag":     {`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`, "not known"},
		"no object":        {`[]`, "cannot be read"},
		"not a number":     {profile(`{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":-1}]}`, 1), "cannot be read"},
	} {
		p, err := ParseCached(c.text)
		if err == nil {
			_, _, err = Compile(p, nil, "amd64")
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	same := profile(`{"names":["read","read"],"action":"SCMP_ACT_ERRNO"}`, 100)
	a, err := ParseCached(same)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ParseCached(same); a != b || err != nil {
		t.Error("a profile is read twice", err)
	}
	for i := range 2 * parsedSize {
		if _, err := ParseCached(same + strings.Repeat(" ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(parsed.profiles) > parsedSize {
		t.Errorf("%d profiles are held", len(parsed.profiles))
	}
}

func TestLoad(t *testing.T) {
	for _, name := range []string{"", "default", "builtin"} {
		if p, err := Load(name); p != Default() || err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if p, err := Load("unconfined"); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := Load("/nonexistent.json"); err == nil {
		t.Error("a file that is missing was loaded")
	}
	path := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(path, []byte(`{"defaultAction":"SCMP_ACT_ERRNO"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
}

// TestMinKernel: rules for kernels newer than this one do not apply.
func TestMinKernel(t *testing.T) {
	text := func(field string) string {
		return `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["ptrace"],"action":"SCMP_ACT_ALLOW","` + field + `}]}`
	}
	for field, want := range map[string]uint32{
		`includes":{"minKernel":"4.8"}`:         unix.SECCOMP_RET_ALLOW,
		`includes":{"minKernel":"200.1"}`:       unix.SECCOMP_RET_ERRNO | 1,
		`excludes":{"minKernel":"4.8"}`:         unix.SECCOMP_RET_ERRNO | 1,
		`excludes":{"minKernel":"200.1"}`:       unix.SECCOMP_RET_ALLOW,
		`includes":{"arches":["amd64"]}`:        unix.SECCOMP_RET_ALLOW,
		`excludes":{"arches":["amd64","x86"]}`:  unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS),
		`includes":{"caps":["CAP_SYS_PTRACE"]}`: unix.SECCOMP_RET_ALLOW,
		`excludes":{"caps":["CAP_SYS_PTRACE"]}`: unix.SECCOMP_RET_ERRNO | 1,
	} {
		p, err := Parse([]byte(text(field)))
		if err != nil {
			t.Fatal(err)
		}
		program, _, err := Compile(p, []string{"CAP_SYS_PTRACE"}, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		got := interpret(t, program, &data{nr: unix.SYS_PTRACE, arch: unix.AUDIT_ARCH_X86_64})
		if want != unix.SECCOMP_RET_ALLOW {
			want = unix.SECCOMP_RET_ERRNO | 1 // a profile that names nothing has no newest call
		}
		if got != want {
			t.Errorf("%s: %#x, want %#x", field, got, want)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := build(Default(), nil, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	for b.Loop() {
		if _, _, err := Compile(Default(), nil, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
