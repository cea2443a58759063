package execs_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"hezi/internal/engine/execs"
)

func loaded(t *testing.T, dir string) *execs.Index {
	t.Helper()
	x := execs.New(dir)
	if err := x.Load(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return x
}

// TestTransitionsTogether: a start, an end and a removal of the same exec at the
// same time store one after the other: an ended exec never runs again, and a
// removed one leaves no file.
func TestTransitionsTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "execs")
	x := loaded(t, dir)
	for i := range 300 {
		id, c := "exec"+strconv.Itoa(i), "container"+strconv.Itoa(i)
		if err := x.Add(&execs.Execution{ID: id, Container: c}); err != nil {
			t.Fatal(err)
		}
		removed := i%2 == 0
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := x.Start(id); err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				t.Error("start:", err)
			}
			x.Began(id, 7)
		})
		wg.Go(func() {
			if _, err := x.End(id, 137); err != nil {
				t.Error("end:", err)
			}
		})
		if removed {
			wg.Go(func() {
				if err := x.Take(c); err != nil {
					t.Error("take:", err)
				}
			})
		}
		wg.Wait()
		v, err := x.Get(id)
		if removed {
			if !errdefs.IsNotFound(err) {
				t.Fatalf("a removed exec is there: %+v", v)
			}
			continue
		}
		if err != nil || v.Running || v.PID != 0 || v.Exit == nil || *v.Exit != 137 {
			t.Fatalf("an ended exec is %+v, %v", v, err)
		}
		if again, err := loaded(t, dir).Get(id); err != nil || again.Running || again.Exit == nil {
			t.Fatalf("an ended exec was stored as %+v, %v", again, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 150 {
		t.Errorf("%d files of 150 execs", len(files))
	}
}

// TestOldestGo: what is over is kept in bounded number, the newest, also over a
// restart.
func TestOldestGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "execs")
	x := loaded(t, dir)
	began := time.Now()
	for i := range 70 {
		id := "exec" + strconv.Itoa(i)
		if err := x.Add(&execs.Execution{ID: id, Container: "c", Made: began.Add(time.Duration(i))}); err != nil {
			t.Fatal(err)
		}
		if err := x.Start(id); err != nil {
			t.Fatal(err)
		}
		if ended, err := x.End(id, 0); err != nil || !ended {
			t.Fatal(ended, err)
		}
		if ended, err := x.End(id, 1); err != nil || ended {
			t.Fatalf("ended twice: %v, %v", ended, err)
		}
	}
	y := loaded(t, dir)
	if err := y.Add(&execs.Execution{ID: "new", Container: "c"}); err != nil {
		t.Fatal(err)
	}
	if _, err := y.End("new", 0); err != nil {
		t.Fatal(err)
	}
	for id, there := range map[string]bool{"exec5": false, "exec6": false, "exec7": true, "exec69": true, "new": true} {
		if _, err := y.Get(id); (err == nil) != there {
			t.Errorf("%s: %v", id, err)
		}
	}
}
