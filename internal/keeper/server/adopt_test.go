package server

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"hezi/internal/keeper"
)

// TestLogCannotBeReopened: a container whose log a new keeper cannot open runs on:
// it is held, its output is read, so that it is not stopped by a full pipe, its
// clients have it, and its exit code is known.
func TestLogCannotBeReopened(t *testing.T) {
	b := newBed(t)
	stop := filepath.Join(b.dir, "stop")
	r := b.request("c", "while ! test -e "+stop+"; do sleep 0.02; done; head -c 300000 /dev/zero; exit 7")
	started := b.start(r)
	if err := os.Remove(r.Log.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.Log.Path, 0o700); err != nil { // no longer a file
		t.Fatal(err)
	}
	b.kill(b.info().PID)
	list, err := b.c.List(b.ctx)
	if err != nil || len(list) != 1 || list[0].PID != started.PID || list[0].Exit != nil {
		t.Fatalf("after the keeper's death: %+v %v", list, err)
	}
	conn := b.attach(keeper.AttachRequest{ContainerID: "c"}, "")
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _ := demux(t, conn); !bytes.Equal(out, make([]byte, 300000)) {
		t.Errorf("the client got %d bytes of 300000", len(out))
	}
	if e := b.wait("c"); e.Code != 7 {
		t.Errorf("exit %+v", e)
	}
	out, err := os.ReadFile(filepath.Join(b.dir, "keeper", "keeper.log"))
	if err != nil || !bytes.Contains(out, []byte("log cannot be opened again: it runs on")) {
		t.Errorf("the keeper does not say so: %s %v", out, err)
	}
}
