package seccomp

import (
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// code is a piece of a program. Pieces jump forwards inside themselves or to
// right behind themselves, so they can be put anywhere.
type code []unix.SockFilter

// Opcodes (linux/bpf_common.h).
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opRet  = unix.BPF_RET | unix.BPF_K
	jeq    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jgt    = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jge    = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// Offsets in struct seccomp_data. Both architectures are little-endian.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

func load(off uint32) unix.SockFilter   { return unix.SockFilter{Code: opLoad, K: off} }
func ret(action uint32) unix.SockFilter { return unix.SockFilter{Code: opRet, K: action} }

func jump(op uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: op, Jt: uint8(yes), Jf: uint8(no), K: k}
}

// branch runs yes when the test holds, else no. no must not run off its end.
func branch(op uint16, k uint32, yes, no code) code {
	var out code
	if len(no) <= 255 {
		out = code{jump(op, k, len(no), 0)}
	} else {
		out = code{jump(op, k, 0, 1), {Code: opJump, K: uint32(len(no))}}
	}
	return append(append(out, no...), yes...)
}

// skipUnless runs then when the test holds, else goes on behind it.
func skipUnless(op uint16, k uint32, then code) code {
	var out code
	if len(then) <= 255 {
		out = code{jump(op, k, 0, len(then))}
	} else {
		out = code{jump(op, k, 1, 0), {Code: opJump, K: uint32(len(then))}}
	}
	return append(out, then...)
}

// tests runs one test after another, and ends in otherwise.
func (a abi) tests(list []test, otherwise uint32) (outcome, error) {
	var out code
	for _, t := range list {
		piece := code{ret(t.action)}
		for i := len(t.conditions) - 1; i >= 0; i-- {
			c, err := a.condition(t.conditions[i], len(piece))
			if err != nil {
				return outcome{}, err
			}
			piece = append(c, piece...)
		}
		out = append(out, piece...)
	}
	out = append(out, ret(otherwise))
	return outcome{out, string(out.bytes())}, nil
}

// condition goes on behind itself when it holds, else it skips the rest of
// its rule, which has rest instructions.
func (a abi) condition(c specs.LinuxSeccompArg, rest int) (code, error) {
	at := uint32(offArgs + 8*c.Index)
	value, mask := c.Value, ^uint64(0)
	if c.Op == specs.OpMaskedEqual {
		value, mask = c.ValueTwo, c.Value
	}
	high, low := uint32(value>>32), uint32(value)
	wide := a.wide && (mask>>32 != 0 || high != 0)
	and := func(m uint64) code {
		if uint32(m) == ^uint32(0) {
			return nil
		}
		return code{{Code: opAnd, K: uint32(m)}}
	}
	// The lower half: 0 goes on, rest skips the rule.
	var end unix.SockFilter
	switch c.Op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		end = jump(jeq, low, 0, rest)
	case specs.OpNotEqual:
		end = jump(jeq, low, rest, 0)
	case specs.OpGreaterThan:
		end = jump(jgt, low, 0, rest)
	case specs.OpGreaterEqual:
		end = jump(jge, low, 0, rest)
	case specs.OpLessThan:
		end = jump(jge, low, rest, 0)
	case specs.OpLessEqual:
		end = jump(jgt, low, rest, 0)
	default:
		return nil, fmt.Errorf("the seccomp profile compares an argument by %q, which is not known", c.Op)
	}
	tail := append(append(code{load(at)}, and(mask)...), end)
	if !wide {
		return tail, nil
	}
	// The upper half decides, but when it is equal.
	n := len(tail)
	head := append(code{load(at + 4)}, and(mask>>32)...)
	switch c.Op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		head = append(head, jump(jeq, high, 0, n+rest))
	case specs.OpNotEqual:
		head = append(head, jump(jeq, high, 0, n))
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		head = append(head, jump(jgt, high, n+1, 0), jump(jeq, high, 0, n+rest))
	default: // less than
		head = append(head, jump(jgt, high, n+1+rest, 0), jump(jeq, high, 0, n))
	}
	return append(head, tail...), nil
}

// bytes is the program as the kernel takes it.
func (c code) bytes() []byte {
	out := make([]byte, 0, 8*len(c))
	for _, i := range c {
		out = binary.NativeEndian.AppendUint16(out, i.Code)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out
}
