package initproc

import (
	"strings"
	"unsafe"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const (
	pageSize = 4 << 10
	// rehearsed is how much of the heap that comes next is mapped beforehand, in bytes.
	rehearsed = 64 << 10
)

// rehearse does, while nobody waits, what needs no box: it reads a plan like
// those that come and writes its tape, which is then thrown away. The real ones
// find memory, stack and code mapped: half of what init would touch for the
// first time between the request and the program, 25 µs for a page where
// faults are dear. It returns room for a tape and for a plan's text. Whatever
// goes wrong is met again.
func rehearse() (room tape, text []byte) {
	word := strings.Repeat("x", 60)
	sample := plan.Plan{Join: true, ID: word, Root: plan.NoFD, Null: plan.NoFD, UserFD: plan.NoFD, CgroupDir: plan.NoFD, Gate: plan.NoFD, Tiny: plan.NoFD,
		Enter: []plan.Entry{{Name: word}},
		Process: plan.Process{Args: []string{word, word, word}, Env: []string{word, word, word, word}, Cwd: "/", Seccomp: make([]byte, 300*8),
			AdditionalGroups: []string{word}, Rlimits: []plan.Rlimit{{Name: word}}}}
	r := session{root: -1, dev: -1, proc: -1}
	if err := plan.Decode(plan.Encode(&sample), &r.plan); err != nil {
		return nil, nil
	}
	r.cut(&identity{groups: make([]uint32, 8)}, [3]int{0, 1, 2}, word, r.plan.Process.Env)
	// The runtime takes the lowest free pages, which follow those it took last.
	text = make([]byte, 2*pageSize)
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(&text[0])), rehearsed, unix.MADV_POPULATE_WRITE) // before Linux 5.14 they are mapped at the first touch
	return r.tape[:0], text
}
