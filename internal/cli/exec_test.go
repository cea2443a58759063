package cli

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// An engine that dies with the request may have started the command: it is not
// asked for a second time.
func TestExecIsNotRepeated(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var asked atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			if n, _ := c.Read(b); strings.Contains(string(b[:n]), "/containers/box/exec") {
				asked.Add(1)
			}
			c.Close()
		}
	}()
	cmd := exec.Command("hezi", "exec", "box", "true")
	cmd.Env = append(os.Environ(), "HEZI_HOST=unix://"+socket)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "may have been started") {
		t.Errorf("%v: %s", err, out)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the command was asked for %d times", n)
	}
}
