package ship

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// journalPath makes the folder of journald's socket, and says where that is.
func journalPath(t *testing.T) string {
	t.Helper()
	const path = journalSocket
	if _, err := os.Stat(path); err == nil {
		t.Skip("a journald runs here: its socket is not the test's to take")
	}
	if os.Geteuid() != 0 {
		t.Skip("the socket is root's to make: run the test as root")
	}
	made := ""
	for p := filepath.Dir(path); p != "/run"; p = filepath.Dir(p) {
		if _, err := os.Stat(p); os.IsNotExist(err) {
			made = p
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(path)
		if made != "" {
			os.RemoveAll(made)
		}
	})
	return path
}

// journald is asked in its native protocol, at the one path that it has.
func TestJournald(t *testing.T) {
	x, _ := datagrams(t, "unixgram", journalPath(t))
	b := newBed(t, "journald", "labels=app", "tag={{.Name}}")
	b.put("hello\n", "stdout")
	b.put("half", "stderr")
	b.put("whole\n", "stderr")
	b.room.Follow(b.c)
	eventually(t, "three messages", func() bool { return len(x.all()) == 3 })
	for i, want := range [][]string{
		{"PRIORITY=6\n", "MESSAGE=hello\n", "CONTAINER_NAME=web\n", "CONTAINER_ID=0123456789ab\n", "CONTAINER_ID_FULL=" + containerID + "\n", "CONTAINER_TAG=web\n",
			"SYSLOG_IDENTIFIER=web\n", "IMAGE_NAME=nginx\n", "APP=shop\n", "SYSLOG_TIMESTAMP=20"},
		{"PRIORITY=3\n", "MESSAGE=half\n", "CONTAINER_PARTIAL_MESSAGE=true\n", "CONTAINER_PARTIAL_ORDINAL=1\n"},
		{"MESSAGE=whole\n", "CONTAINER_PARTIAL_LAST=true\n", "CONTAINER_PARTIAL_ORDINAL=2\n"},
	} {
		for _, field := range want {
			if !strings.Contains(x.all()[i], field) {
				t.Errorf("message %d has no %q:\n%s", i, field, x.all()[i])
			}
		}
	}
}

func TestFieldName(t *testing.T) {
	for k, want := range map[string]string{"app": "APP", "com.example/x-1": "COM_EXAMPLE_X_1", "_hidden": "HIDDEN", "é": ""} {
		if got := fieldName(k); got != want {
			t.Errorf("%s: %s, want %s", k, got, want)
		}
	}
}

// hung listens at journald's socket and reads nothing.
func hung(t *testing.T) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journalPath(t), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A journald that hangs holds up neither the room's end nor a removal, leaves nothing
// behind in it, and gets every line once it reads again.
func TestJournaldThatHangs(t *testing.T) {
	c := hung(t)
	before := runtime.NumGoroutine()
	b := newBed(t, "journald")
	b.say(100) // more than its queue takes, and no more than the files keep
	b.room.Follow(b.c)
	full := func() bool {
		p := []unix.PollFd{{Events: unix.POLLIN}}
		raw, _ := c.SyscallConn()
		raw.Control(func(fd uintptr) { p[0].Fd = int32(fd); unix.Poll(p, 0) })
		return p[0].Revents != 0
	}
	eventually(t, "something is sent", full)
	start := time.Now()
	if err := b.room.Release(b.c.Info.ContainerID); err != nil {
		t.Errorf("a removal: %v", err)
	}
	b.room.Close()
	if took := time.Since(start); took >= slowest {
		t.Errorf("the room's end took %v", took)
	}
	eventually(t, "nothing runs on", func() bool { return runtime.NumGoroutine() <= before })
	seen := map[string]bool{}
	b.open()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for buf := make([]byte, 1<<16); len(seen) < 100; {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%d lines, then %v", len(seen), err)
		}
		_, text, _ := strings.Cut(string(buf[:n]), "MESSAGE=")
		text, _, _ = strings.Cut(text, "\n")
		seen[text] = true
	}
	for i := range 100 {
		if line := fmt.Sprintf("line %d", i+1); !seen[line] {
			t.Fatalf("%q is not there", line)
		}
	}
}

// A message that no datagram takes comes in a sealed file.
func TestJournaldLargeMessage(t *testing.T) {
	c := hung(t)
	b := newBed(t, "journald", "labels=app")
	large := strings.Repeat("x\n", 300_000)
	b.c.Info.ContainerLabels["app"] = large
	b.put("hello\n", "stdout")
	b.room.Follow(b.c)
	oob := make([]byte, 100)
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, oobn, _, _, err := c.ReadMsgUnix(make([]byte, 1<<16), oob)
	if err != nil || n != 0 {
		t.Fatalf("%d bytes, %v, %s", n, err, b.logged.String())
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "message")
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil || !strings.Contains(string(text), "MESSAGE=hello\n") || !strings.Contains(string(text), "APP\n\xc0\x27\x09\x00\x00\x00\x00\x00"+large+"\n") {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
		t.Errorf("seals %#x, %v", seals, err)
	}
}
