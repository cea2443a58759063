package cgroup

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Opcodes of eBPF that the device program needs (kernel: linux/bpf.h).
const (
	opLoad32   = 0x61 // ldxw dst, [src+off]
	opMovReg   = 0xbc // mov32 dst, src
	opMovImm   = 0xb4 // mov32 dst, imm
	opAndImm   = 0x54 // and32
	opRshImm   = 0x74 // rsh32
	opJneImm32 = 0x56 // jne32 dst, imm, off
	opJneReg32 = 0x5e
	opExit     = 0x95
)

// assembler collects 8-byte instructions.
type assembler struct {
	code []byte
}

func (a *assembler) add(op, dst, src byte, off int16, imm int32) {
	var b [8]byte
	b[0], b[1] = op, src<<4|dst
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // registers are nibbles, in the machine's order
		b[1] = dst<<4 | src
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(off))
	binary.NativeEndian.PutUint32(b[4:], uint32(imm))
	a.code = append(a.code, b[:]...)
}

// deviceProgram allows what a rule matches with all the access asked for, and
// denies the rest. Its argument is struct bpf_cgroup_dev_ctx: access<<16|type,
// major, minor.
func deviceProgram(rules []DeviceRule) []byte {
	a := &assembler{}
	a.add(opLoad32, 2, 1, 0, 0) // r2: type
	a.add(opMovReg, 3, 2, 0, 0) // r3: access
	a.add(opAndImm, 2, 0, 0, 0xffff)
	a.add(opRshImm, 3, 0, 0, 16)
	a.add(opLoad32, 4, 1, 4, 0) // r4: major
	a.add(opLoad32, 5, 1, 8, 0) // r5: minor
	for _, r := range rules {
		a.rule(r)
	}
	a.add(opMovImm, 0, 0, 0, 0)
	a.add(opExit, 0, 0, 0, 0)
	return a.code
}

func (a *assembler) rule(r DeviceRule) {
	kind := int32(unix.BPF_DEVCG_DEV_CHAR)
	if r.Type == "b" {
		kind = unix.BPF_DEVCG_DEV_BLOCK
	}
	access := int32(0)
	for letter, bit := range map[string]int32{"r": unix.BPF_DEVCG_ACC_READ, "w": unix.BPF_DEVCG_ACC_WRITE, "m": unix.BPF_DEVCG_ACC_MKNOD} {
		if strings.Contains(r.Access, letter) {
			access |= bit
		}
	}
	total := 1 + 2 // the type's test and the answer
	if access != 7 {
		total += 3
	}
	for _, v := range []int64{r.Major, r.Minor} {
		if v >= 0 {
			total++
		}
	}
	begin := len(a.code) / 8
	jump := func() int16 { return int16(total - 1 - (len(a.code)/8 - begin)) } // to behind the rule
	a.add(opJneImm32, 2, 0, jump(), kind)
	if access != 7 { // asked & allowed != asked
		a.add(opMovReg, 1, 3, 0, 0)
		a.add(opAndImm, 1, 0, 0, access)
		a.add(opJneReg32, 1, 3, jump(), 0)
	}
	if r.Major >= 0 {
		a.add(opJneImm32, 4, 0, jump(), int32(uint32(r.Major)))
	}
	if r.Minor >= 0 {
		a.add(opJneImm32, 5, 0, jump(), int32(uint32(r.Minor)))
	}
	a.add(opMovImm, 0, 0, 0, 1)
	a.add(opExit, 0, 0, 0, 0)
}

// programName tells by the rules' hash whether the program that hangs on a
// cgroup is the one it should be (15 bytes at most).
func programName(code []byte) string {
	h := fnv.New32a()
	h.Write(code)
	return "hezi_" + hex.EncodeToString(h.Sum(nil))
}

// attachDevices makes the rules hold for a v2 cgroup and all below it, in the
// place of other rules that this engine attached before.
func attachDevices(dir string, rules []DeviceRule) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot attach the device rules to the cgroup %s, so a container could open every device of the host: %w (the kernel needs CONFIG_CGROUP_BPF, and the engine CAP_SYS_ADMIN)", dir, err)
	}
	cgroup, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(cgroup)
	code := deviceProgram(rules)
	name := programName(code)
	old, err := attached(cgroup)
	if err != nil {
		return fail(err)
	}
	defer func() {
		for _, p := range old {
			unix.Close(p.fd)
		}
	}()
	present := false
	for _, p := range old {
		present = present || p.name == name
	}
	if !present {
		program, err := load(code, name)
		if err != nil {
			return fail(err)
		}
		defer unix.Close(program)
		if err := attachment(unix.BPF_PROG_ATTACH, cgroup, program); err != nil {
			return fail(err)
		}
	}
	for _, p := range old { // the new rules hold already: nothing is open meanwhile
		if p.name != name && strings.HasPrefix(p.name, "hezi_") {
			if err := attachment(unix.BPF_PROG_DETACH, cgroup, p.fd); err != nil {
				return fail(err)
			}
		}
	}
	return nil
}

func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for range 30 { // the verifier gives up for a signal
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return -1, errno
		}
	}
	return -1, unix.EAGAIN
}

func load(code []byte, name string) (int, error) {
	license := []byte("Apache-2.0\x00")
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&code[0])
	pins.Pin(&license[0])
	attr := struct {
		kind, count     uint32
		code, license   uint64
		logLevel, size  uint32
		log             uint64
		version, flags  uint32
		name            [16]byte
		ifindex, expect uint32
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	copy(attr.name[:15], name)
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)) // close-on-exec by itself
}

// attachment attaches beside other programs, or detaches.
func attachment(command, cgroup, program int) error {
	attr := struct{ target, program, kind, flags, replace uint32 }{uint32(cgroup), uint32(program), unix.BPF_CGROUP_DEVICE, 0, 0}
	if command == unix.BPF_PROG_ATTACH {
		attr.flags = unix.BPF_F_ALLOW_MULTI
	}
	_, err := bpf(command, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

type program struct {
	fd   int
	name string
}

// attached lists the device programs that hang on the cgroup itself. The
// caller closes them.
func attached(cgroup int) (list []program, err error) {
	ids := new([64]uint32) // as many as the kernel allows
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(ids)
	attr := struct {
		target, kind, queryFlags, attachFlags uint32
		ids                                   uint64
		count, pad                            uint32
		progFlags                             uint64
	}{target: uint32(cgroup), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(ids))), count: uint32(len(ids))}
	// The size up to count is what Linux 4.15 has.
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Offsetof(attr.pad)); err != nil {
		return nil, err
	}
	for _, id := range ids[:attr.count] {
		p, err := byID(id)
		if errors.Is(err, unix.ENOENT) {
			continue // detached meanwhile
		}
		if err != nil {
			for _, p := range list {
				unix.Close(p.fd)
			}
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func byID(id uint32) (program, error) {
	get := struct{ id, next, flags uint32 }{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if err != nil {
		return program{}, err
	}
	// struct bpf_prog_info up to its name: type, id, tag[8], two lengths, two
	// pointers, load_time, created_by_uid, nr_map_ids, map_ids, name[16].
	info := new([80]byte)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(info)
	attr := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(len(info)), uint64(uintptr(unsafe.Pointer(info)))}
	_, err = bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		unix.Close(fd)
		return program{}, err
	}
	return program{fd, unix.ByteSliceToString(info[64:80])}, nil
}
