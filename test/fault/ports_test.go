package fault

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// taken says whether programs are kept from a port of the host.
func taken(t *testing.T, port int) bool {
	t.Helper()
	l, err := net.Listen("tcp4", fmt.Sprint("127.0.0.1:", port))
	if err == nil {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return false
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
	return true
}

// TestPortsStayTaken while hezid is away, whichever process of the keeper's
// dies, and are free once their container has ended.
func TestPortsStayTaken(t *testing.T) {
	e := start(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	publish := fmt.Sprintf("127.0.0.1:%d:80", port)
	e.Must(t, "run", "-d", "--name", "box", "-p", publish, "busybox", "sleep", "1000")
	still := func(when string) {
		t.Helper()
		if !taken(t, port) {
			t.Errorf("another program can have the port %s", when)
		}
	}
	kill := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	keeper, _ := e.Keeper()
	e.Kill()
	still("while hezid is away")
	kill(keeper)
	still("while hezid and the keeper are away")
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	still("after a restart")
	_, holder := e.Keeper()
	kill(holder)
	still("without the holder")
	for range 100 { // until a new holder has everything
		if _, now := e.Keeper(); now != 0 && now != holder {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	e.Must(t, "restart", "-t", "0", "box") // the port is given up and taken again
	still("after a restart of the container")
	if r := e.Hezi("run", "-d", "-p", publish, "busybox", "true"); r.Code == 0 {
		t.Error("two containers have one port")
	}
	e.Kill()
	still("while hezid is away once more")
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "kill", "box")
	for range 100 {
		if !taken(t, port) {
			e.Must(t, "start", "box")
			still("after a start")
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the port of a container that has ended is not given back")
}
