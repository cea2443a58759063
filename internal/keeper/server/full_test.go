package server

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// TestFullDisk: a container whose log finds no place runs on to its end, its
// client has every byte, the reason is said, and the log goes on with room.
func TestFullDisk(t *testing.T) {
	b := newBed(t)
	small := filepath.Join(b.dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	filler := filepath.Join(small, "filler")
	if err := os.WriteFile(filler, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.request("a", "seq 1 20000; while [ -e "+filler+" ]; do sleep 0.1; done; echo room; exit 3")
	r.Log.Path = filepath.Join(small, "a.log")
	conn := b.attach(keeper.AttachRequest{ContainerID: "a", NextStart: true}, "")
	b.start(r)
	said := func(text string) bool {
		out, _ := os.ReadFile(filepath.Join(b.dir, "keeper", "keeper.log"))
		return strings.Contains(string(out), text)
	}
	for deadline := time.Now().Add(20 * time.Second); !said("no space left on device"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said about the full disk")
		}
	}
	done := make(chan string, 1)
	go func() {
		out, _ := demux(t, conn)
		done <- string(out)
	}()
	idle := b.attach(keeper.AttachRequest{ContainerID: "b", NextStart: true}, "") // comes to be behind
	r2 := b.request("b", "seq 1 200000")
	r2.Log.Path = filepath.Join(small, "b.log")
	b.start(r2)
	if e := b.wait("b"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	var got []byte
	for { // it is cut off, perhaps within a frame
		var h [8]byte
		if _, err := io.ReadFull(idle, h[:]); err != nil {
			break
		}
		part := make([]byte, binary.BigEndian.Uint32(h[4:]))
		n, _ := io.ReadFull(idle, part)
		got = append(got, part[:n]...)
	}
	if len(got) == 0 || !strings.HasPrefix(numbers(200000), string(got)) {
		t.Errorf("a client that is behind got %d bytes that are no beginning of the output", len(got))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("a"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	if got, want := <-done, numbers(20000)+"room\n"; got != want {
		t.Errorf("the client got %d bytes, want %d", len(got), len(want))
	}
	if log, err := os.ReadFile(r.Log.Path); err != nil || !strings.Contains(string(log), `"log":"room\n"`) || !said("is written again") {
		t.Errorf("the log does not go on: %v", err)
	}
}
