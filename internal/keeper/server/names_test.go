package server

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// TestNameSockets: what a container asks for names by is given out again as it
// was, whoever was killed or replaced, and ends with the container.
func TestNameSockets(t *testing.T) {
	b := newBed(t)
	socket := func(kind int) int {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	inode := func(fd int) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	r := b.request("a", "exec sleep 60")
	r.Ports, r.Names = []int{socket(unix.SOCK_STREAM)}, []int{socket(unix.SOCK_DGRAM), socket(unix.SOCK_STREAM)}
	b.start(r)
	b.start(b.request("plain", "exec sleep 60"))
	check := func(when string) {
		t.Helper()
		got, err := b.c.NameSockets(b.ctx, "a")
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		defer keeper.CloseFDs(got)
		if len(got) != 2 || inode(got[0]) != inode(r.Names[0]) || inode(got[1]) != inode(r.Names[1]) {
			t.Errorf("%s the sockets are %v, others than those given", when, got)
		}
		if none, err := b.c.NameSockets(b.ctx, "plain"); err != nil || len(none) != 0 {
			t.Errorf("%s a container without has %v, %v", when, none, err)
		}
		list, err := b.c.List(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if want := map[string]int{"a": 1}[s.ID]; s.Ports != want {
				t.Errorf("%s %d ports of %s are kept, want %d", when, s.Ports, s.ID, want)
			}
		}
	}
	check("at first")
	b.kill(b.info().PID)
	check("after the keeper's death")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.c.Upgrade(b.ctx, exe); err != nil {
		t.Fatal(err)
	}
	check("after the upgrade")
	b.otherHolder()
	b.kill(b.info().PID)
	check("after the holder's death, and then the keeper's")
	// A container that runs can be given them, and others in their place.
	for range 2 {
		fresh := []int{socket(unix.SOCK_DGRAM), socket(unix.SOCK_STREAM)}
		if err := b.c.KeepNames(b.ctx, "a", fresh); err != nil {
			t.Fatal(err)
		}
		r.Names = fresh
		check("given later")
		b.kill(b.info().PID)
		check("given later, after the keeper's death")
	}
	if err := b.c.Signal(b.ctx, "a", "", int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	b.wait("a")
	if got, err := b.c.NameSockets(b.ctx, "a"); err != nil || len(got) != 0 {
		t.Errorf("after the container's end there are %v, %v", got, err)
	}
}
