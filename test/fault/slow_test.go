package fault

import (
	"io"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestSlowReader: a client that reads slowly gets every byte of more than the
// log may hold: the container waits for the client that started it.
func TestSlowReader(t *testing.T) {
	e := harness.Start(t, "--log-opt", "max-size=1m", "--log-opt", "max-file=3")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	const size = 20 << 20
	cmd := e.Command("run", "--rm", "busybox", "sh", "-c", "yes 01234567890123456789012345678901234567890123456789 | head -c 20971520")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := 0
	buf := make([]byte, 1<<20)
	for err == nil {
		var n int
		n, err = out.Read(buf)
		if got += n; got < 2<<20 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	if err != io.EOF || got != size {
		t.Errorf("%d of %d bytes, %v", got, size, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
