package seccomp

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Profile is a profile in Docker's format. It does not change.
type Profile struct {
	moby moby.Seccomp
	key  [sha256.Size]byte // of its JSON, for the cache
	caps []string
}

// Default is Docker's built-in profile.
var Default = sync.OnceValue(func() *Profile {
	p := moby.DefaultProfile()
	text, err := json.Marshal(p)
	if err != nil {
		panic("seccomp: the built-in profile: " + err.Error()) // it is constant: a test runs this
	}
	return newProfile(*p, string(text))
})

func newProfile(m moby.Seccomp, text string) *Profile {
	p := &Profile{moby: m, key: sha256.Sum256([]byte(text))}
	for _, s := range m.Syscalls {
		for _, f := range []*moby.Filter{s.Includes, s.Excludes} {
			if f != nil {
				p.caps = append(p.caps, f.Caps...)
			}
		}
	}
	slices.Sort(p.caps)
	p.caps = slices.Compact(p.caps)
	return p
}

// Parse reads a profile from JSON, as --security-opt seccomp= sends it.
func Parse(text []byte) (*Profile, error) {
	var m moby.Seccomp
	if err := json.Unmarshal(text, &m); err != nil {
		var at *json.SyntaxError
		if errors.As(err, &at) {
			line := 1 + bytes.Count(text[:min(int(at.Offset), len(text))], []byte("\n"))
			return nil, fmt.Errorf("the seccomp profile is not valid JSON: line %d: %w", line, err)
		}
		return nil, fmt.Errorf("the seccomp profile cannot be read: %w", err)
	}
	if m.DefaultAction == "" {
		return nil, errors.New(`the seccomp profile has no defaultAction: write for example "defaultAction": "SCMP_ACT_ERRNO"`)
	}
	if m.ListenerPath != "" || m.ListenerMetadata != "" {
		return nil, errors.New("the seccomp profile names a listener (listenerPath), which hezi does not offer: remove it")
	}
	if len(m.Architectures) > 0 && len(m.ArchMap) > 0 {
		return nil, errors.New("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'")
	}
	for _, s := range m.Syscalls {
		if s == nil {
			return nil, errors.New("the seccomp profile has a null among its syscalls")
		}
		if err := rename(s); err != nil {
			return nil, err
		}
	}
	p := newProfile(m, string(text))
	// What cannot be compiled is refused now, not at a start.
	if _, err := build(p, nil, runtime.GOARCH); err != nil {
		return nil, err
	}
	if _, err := flagsOf(p); err != nil {
		return nil, err
	}
	return p, nil
}

// parsed holds profiles by their JSON; parsedSize bounds it.
var parsed = struct {
	sync.Mutex
	profiles map[[sha256.Size]byte]*Profile
}{profiles: map[[sha256.Size]byte]*Profile{}}

const parsedSize = 16

// ParseCached is Parse for a profile that comes again with each start and exec.
func ParseCached(text string) (*Profile, error) {
	key := sha256.Sum256([]byte(text))
	parsed.Lock()
	p := parsed.profiles[key]
	parsed.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	parsed.Lock()
	defer parsed.Unlock()
	keep(parsed.profiles, parsedSize, key, p)
	return p, nil
}

// rename moves the one name of an old profile's rule to its names.
func rename(s *moby.Syscall) error {
	//lint:ignore SA1019 old profiles have it
	old := &s.Name
	if *old != "" && len(s.Names) > 0 {
		return errors.New("both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")
	}
	if *old != "" {
		s.Names, *old = []string{*old}, ""
	}
	return nil
}

// Load is a profile by what the configuration names: "", "default" and
// "builtin" are Docker's, "unconfined" is nil, else it is a file.
func Load(name string) (*Profile, error) {
	switch name {
	case "", "default", "builtin":
		return Default(), nil
	case "unconfined":
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the seccomp profile: %w", err)
	}
	p, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// OCI is the profile as other OCI runtimes take it, narrowed to a container's
// capabilities and this machine. A nil profile is nil: unconfined.
func (p *Profile) OCI(caps []string) (*specs.LinuxSeccomp, error) {
	if p == nil {
		return nil, nil
	}
	text, err := json.Marshal(p.moby)
	if err != nil {
		return nil, err
	}
	return moby.LoadProfile(string(text), &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
}

// rule is one entry of a profile that applies here.
type rule struct {
	names  []string
	action uint32
	args   []specs.LinuxSeccompArg
}

// names of the architectures in a profile's includes and excludes are Go's,
// but for i386.
func archWord(arch string) string {
	if arch == "386" {
		return "x86"
	}
	return arch
}

// maxCases bounds what rules name, calls times arguments: far more than any
// program holds.
const maxCases = 1 << 16

// narrow gives the rules for capabilities and an architecture on this kernel.
func (p *Profile) narrow(caps []string, arch string) ([]rule, error) {
	has := map[string]bool{}
	for _, c := range caps {
		has[c] = true
	}
	var out []rule
	cases := 0
	for _, s := range p.moby.Syscalls {
		ok, err := applies(s, has, archWord(arch))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		action, err := encode(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("the seccomp profile's rule of %s: %w", strings.Join(s.Names, ", "), err)
		}
		for _, a := range s.Args {
			if a.Index > 5 {
				return nil, fmt.Errorf("the seccomp profile's rule of %s tests argument %d: a system call has 0 to 5", strings.Join(s.Names, ", "), a.Index)
			}
		}
		if cases += len(s.Names) * max(1, len(s.Args)); cases > maxCases {
			return nil, errTooLarge
		}
		out = append(out, rule{s.Names, action, s.Args})
	}
	return out, nil
}

func applies(s *moby.Syscall, has map[string]bool, arch string) (bool, error) {
	if x := s.Excludes; x != nil {
		if slices.Contains(x.Arches, arch) || slices.ContainsFunc(x.Caps, func(c string) bool { return has[c] }) {
			return false, nil
		}
		if new, err := kernelHas(x.MinKernel); x.MinKernel != nil && (new || err != nil) {
			return false, err
		}
	}
	if i := s.Includes; i != nil {
		if len(i.Arches) > 0 && !slices.Contains(i.Arches, arch) || slices.ContainsFunc(i.Caps, func(c string) bool { return !has[c] }) {
			return false, nil
		}
		if new, err := kernelHas(i.MinKernel); i.MinKernel != nil && (!new || err != nil) {
			return false, err
		}
	}
	return true, nil
}

// release is the running kernel's version.
var release = sync.OnceValues(func() (v moby.KernelVersion, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return v, err
	}
	text := unix.ByteSliceToString(u.Release[:])
	if _, err := fmt.Sscanf(text, "%d.%d", &v.Kernel, &v.Major); err != nil {
		return v, fmt.Errorf("cannot read the kernel's version %q: %w", text, err)
	}
	return v, nil
})

func kernelHas(v *moby.KernelVersion) (bool, error) {
	if v == nil {
		return false, nil
	}
	now, err := release()
	return now.Kernel > v.Kernel || now.Kernel == v.Kernel && now.Major >= v.Major, err
}

// encode gives the kernel's number of an action (linux/seccomp.h).
func encode(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > 4095 {
			return 0, fmt.Errorf("errnoRet %d is above 4095", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActNotify:
		return 0, errors.New("the action SCMP_ACT_NOTIFY needs a listening agent, which hezi does not offer")
	}
	return 0, fmt.Errorf("unknown action %q", a)
}

// flagsOf gives SECCOMP_FILTER_FLAG_* of a profile. As with runc, speculation
// is left as it is (SPEC_ALLOW) when the profile says nothing.
func flagsOf(p *Profile) (uint32, error) {
	if p.moby.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	flags := uint32(0)
	for _, f := range p.moby.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC": // init loads the program right before execve, which leaves one thread
		default:
			return 0, fmt.Errorf("the seccomp profile's flag %q is not known", f)
		}
	}
	return flags, nil
}
