package seccomp

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ABIs, in the order of the table.
const (
	abiAMD64 = iota
	abiI386
	abiX32
	abiARM64
	abiARM
	abis
)

const (
	x32Bit     = 1 << 30
	armPrivate = 0xf0000 // from here on, arm's own calls
)

// abi is one set of system calls.
type abi struct {
	id    int
	name  specs.Arch
	audit uint32
	wide  bool // arguments are of 64 bits
}

var known = []abi{
	{abiAMD64, specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, true},
	{abiI386, specs.ArchX86, unix.AUDIT_ARCH_I386, false},
	{abiX32, specs.ArchX32, unix.AUDIT_ARCH_X86_64, false},
	{abiARM64, specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, true},
	{abiARM, specs.ArchARM, unix.AUDIT_ARCH_ARM, false},
}

var native = map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}

type cacheKey struct {
	profile    [sha256.Size]byte
	arch, caps string
}

// cache holds compiled programs; cacheSize bounds it.
var cache = struct {
	sync.Mutex
	programs map[cacheKey][]byte
}{programs: map[cacheKey][]byte{}}

const cacheSize = 64

// Compile gives the program as an array of struct sock_filter in the host's
// byte order, and the flags of seccomp(2) for it. Caps are the names of the
// container's bounding set. Arch is Go's: amd64 or arm64. A nil profile is
// unconfined: nil. The bytes are shared: they must not be changed.
func Compile(p *Profile, caps []string, arch string) (program []byte, flags uint32, err error) {
	if p == nil {
		return nil, 0, nil
	}
	if flags, err = flagsOf(p); err != nil {
		return nil, 0, err
	}
	// Only the capabilities that the profile asks for make a difference.
	caps = slices.DeleteFunc(slices.Sorted(slices.Values(caps)), func(c string) bool {
		_, found := slices.BinarySearch(p.caps, c)
		return !found
	})
	key := cacheKey{p.key, arch, strings.Join(slices.Compact(caps), ",")}
	cache.Lock()
	program, ok := cache.programs[key]
	cache.Unlock()
	if ok {
		return program, flags, nil
	}
	code, err := build(p, caps, arch)
	if err != nil {
		return nil, 0, err
	}
	program = code.bytes()
	cache.Lock()
	defer cache.Unlock()
	keep(cache.programs, cacheSize, key, program)
	return program, flags, nil
}

// keep puts a value into a cache of a size, in place of any one when it is full.
func keep[K comparable, V any](cache map[K]V, size int, key K, value V) {
	if len(cache) >= size {
		for k := range cache {
			delete(cache, k)
			break
		}
	}
	cache[key] = value
}

func build(p *Profile, caps []string, arch string) (code, error) {
	own, ok := native[arch]
	if !ok {
		return nil, fmt.Errorf("seccomp profiles can be compiled for amd64 and arm64, not for %s", arch)
	}
	rules, err := p.narrow(caps, arch)
	if err != nil {
		return nil, err
	}
	otherwise, err := encode(p.moby.DefaultAction, p.moby.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("the seccomp profile's default action: %w", err)
	}
	wanted := slices.Clone(p.moby.Architectures)
	for _, a := range p.moby.ArchMap {
		if a.Arch == own {
			wanted = append(append(wanted, own), a.SubArches...)
		}
	}
	sections := map[int]code{}
	for _, a := range known {
		// An ABI of another machine can never be met here.
		if a.name == own || slices.Contains(wanted, a.name) && (a.id <= abiX32) == (arch == "amd64") {
			if sections[a.id], err = a.compile(rules, otherwise); err != nil {
				return nil, err
			}
		}
	}
	out := link(sections)
	if len(out) > unix.BPF_MAXINSNS {
		return nil, errTooLarge
	}
	return out, nil
}

var errTooLarge = fmt.Errorf("the seccomp profile is too large: its program has more than the %d instructions that the kernel takes", unix.BPF_MAXINSNS)

// link puts the sections of the ABIs behind the test of the architecture.
func link(sections map[int]code) code {
	out := code{load(offArch)}
	for _, a := range known {
		section, ok := sections[a.id]
		if !ok || a.id == abiX32 {
			continue
		}
		if a.id == abiAMD64 {
			x32, ok := sections[abiX32]
			if !ok {
				x32 = code{ret(unix.SECCOMP_RET_KILL_THREAD)}
			}
			section = branch(jge, x32Bit, x32, section)
		}
		out = append(out, skipUnless(jeq, a.audit, append(code{load(offNr)}, section...))...)
	}
	return append(out, ret(unix.SECCOMP_RET_KILL_THREAD))
}

// call is what happens to one system call.
type call struct {
	final *uint32 // an unconditional action
	tests []test  // else the first that holds
}

// test is a rule with arguments: all conditions must hold.
type test struct {
	action     uint32
	conditions []specs.LinuxSeccompArg
}

// outcome is a call's code and what makes it equal to another's.
type outcome struct {
	code code
	key  string
}

func (a abi) compile(rules []rule, otherwise uint32) (code, error) {
	calls, newest := a.collect(rules, otherwise)
	constant := func(action uint32) outcome { return outcome{code{ret(action)}, fmt.Sprint(action)} }
	plain := constant(otherwise)
	// Ranges: each begins where the outcome changes.
	type step struct {
		from uint32
		outcome
	}
	base := uint32(0)
	if a.id == abiX32 {
		base = x32Bit
	}
	steps := []step{{base, plain}}
	put := func(from uint32, o outcome) {
		last := &steps[len(steps)-1]
		switch {
		case last.from == from:
			last.outcome = o
			if n := len(steps); n > 1 && steps[n-2].key == o.key {
				steps = steps[:n-1]
			}
		case last.key != o.key:
			steps = append(steps, step{from, o})
		}
	}
	beyond := plain
	if !permissive(otherwise) && newest != math.MaxUint32 {
		beyond = constant(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	}
	ended := false
	end := func() {
		if !ended {
			put(newest+1, beyond)
			ended = true
		}
	}
	for _, nr := range slices.Sorted(maps.Keys(calls)) {
		if nr > newest {
			end()
		}
		o := plain
		if c := calls[nr]; c.final != nil {
			o = constant(*c.final)
		} else {
			var err error
			if o, err = a.tests(c.tests, otherwise); err != nil {
				return nil, err
			}
		}
		put(nr, o)
		if nr > newest { // arm's private calls lie apart
			put(nr+1, beyond)
		} else {
			put(nr+1, plain)
		}
	}
	if newest != math.MaxUint32 {
		end()
	}
	total := 0
	for _, s := range steps { // before they are put together, which copies them
		if total += len(s.code); total > unix.BPF_MAXINSNS {
			return nil, errTooLarge
		}
	}
	var search func(list []step) code
	search = func(list []step) code {
		if len(list) == 1 {
			return list[0].code
		}
		half := len(list) / 2
		return branch(jge, list[half].from, search(list[half:]), search(list[:half]))
	}
	return search(steps), nil
}

// permissive actions let calls of the future through, so that they get no
// ENOSYS: who traces or logs will handle them.
func permissive(action uint32) bool {
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

// collect finds what happens to each call, and the newest one that the
// profile names (MaxUint32: none).
func (a abi) collect(rules []rule, otherwise uint32) (calls map[uint32]*call, newest uint32) {
	calls, newest = map[uint32]*call{}, math.MaxUint32
	at := func(nr uint32) *call {
		if calls[nr] == nil {
			calls[nr] = &call{}
		}
		return calls[nr]
	}
	for _, r := range rules {
		for _, name := range r.names {
			nr, direct := a.number(name)
			if direct && (nr < armPrivate || a.id == abiX32) && (newest == math.MaxUint32 || nr > newest) {
				newest = nr
			}
			if r.action == otherwise {
				continue // says nothing, and may not stand before another rule
			}
			for _, args := range alternatives(r.args) {
				if direct {
					at(nr).add(r.action, args)
				}
				if m, ok := multiplexed[name]; ok && a.id == abiI386 {
					// The first argument tells the call; the others are those
					// of socketcall itself, as libseccomp has it.
					also := slices.DeleteFunc(slices.Clone(args), func(c specs.LinuxSeccompArg) bool { return c.Index == 0 })
					also = append(also, specs.LinuxSeccompArg{Index: 0, Value: m.call, Op: specs.OpEqualTo})
					nr, _ := a.number(m.by)
					at(nr).add(r.action, also)
				}
			}
		}
	}
	return calls, newest
}

func (a abi) number(name string) (uint32, bool) {
	n, ok := table[name]
	if !ok || n[a.id] < 0 {
		return 0, false
	}
	return uint32(n[a.id]), true
}

// add puts a rule to a call. The first unconditional one decides.
func (c *call) add(action uint32, args []specs.LinuxSeccompArg) {
	switch {
	case c.final != nil:
	case len(args) == 0:
		c.final, c.tests = &action, nil
	default:
		c.tests = append(c.tests, test{action, args})
	}
}

// alternatives splits a rule that tests one argument twice: then any of its
// tests is enough.
func alternatives(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	if !repeats(args) {
		return [][]specs.LinuxSeccompArg{args}
	}
	var out [][]specs.LinuxSeccompArg
	for i := range args {
		out = append(out, args[i:i+1])
	}
	return out
}

func repeats(args []specs.LinuxSeccompArg) bool {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			return true
		}
		seen[a.Index] = true
	}
	return false
}

// multiplexed calls of i386: by socketcall(2) (linux/net.h) and ipc(2)
// (linux/ipc.h).
var multiplexed = map[string]struct {
	by   string
	call uint64
}{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3}, "listen": {"socketcall", 4},
	"accept": {"socketcall", 5}, "getsockname": {"socketcall", 6}, "getpeername": {"socketcall", 7},
	"socketpair": {"socketcall", 8}, "send": {"socketcall", 9}, "recv": {"socketcall", 10}, "sendto": {"socketcall", 11},
	"recvfrom": {"socketcall", 12}, "shutdown": {"socketcall", 13}, "setsockopt": {"socketcall", 14},
	"getsockopt": {"socketcall", 15}, "sendmsg": {"socketcall", 16}, "recvmsg": {"socketcall", 17},
	"accept4": {"socketcall", 18}, "recvmmsg": {"socketcall", 19}, "sendmmsg": {"socketcall", 20},
	"semop": {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4}, "msgsnd": {"ipc", 11},
	"msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14}, "shmat": {"ipc", 21}, "shmdt": {"ipc", 22},
	"shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}
