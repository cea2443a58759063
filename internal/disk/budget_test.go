package disk

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"
)

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		l         Limits
		high, low int64
		bad       string
	}{
		{Limits{}, 0, 0, ""},
		{Limits{High: "50GB"}, 50e9, 45e9, ""},
		{Limits{High: "20%"}, 200e9, 180e9, ""},
		{Limits{High: "50GB", Low: "30GB"}, 50e9, 30e9, ""},
		{Limits{High: "50GB", Low: "50%"}, 50e9, 25e9, ""},
		{Limits{High: "20%", Low: "500GB"}, 200e9, 200e9, ""},
		{Limits{High: "much"}, 0, 0, `disk-budget "much": a size is needed`},
		{Limits{High: "120%"}, 0, 0, `disk-budget "120%"`},
		{Limits{High: "0"}, 0, 0, `disk-budget "0"`},
		{Limits{High: "10GB", Low: "20GB"}, 0, 0, "disk-budget-low 20GB is more than the disk-budget of 10GB"},
		{Limits{High: "10GB", Low: "x"}, 0, 0, `disk-budget-low "x"`},
		{Limits{Low: "10GB"}, 0, 0, "disk-budget-low needs a disk-budget"},
	} {
		err := c.l.Check()
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%+v: %v", c.l, err)
			}
			continue
		}
		if high, low := c.l.marks(1000e9); err != nil || high != c.high || low != c.low {
			t.Errorf("%+v: %d %d %v", c.l, high, low, err)
		}
	}
}

// evicter has images of some sizes and removes the first of them.
type evicter struct {
	images []int64
	since  time.Time
	why    string
}

func (e *evicter) Evict(_ context.Context, need int64, since time.Time, why string) (freed int64, err error) {
	e.since, e.why = since, why
	for len(e.images) > 0 && freed < need {
		freed += e.images[0]
		e.images = e.images[1:]
	}
	return freed, nil
}

func (e *evicter) total() (n int64) {
	for _, i := range e.images {
		n += i
	}
	return n
}

func TestBudget(t *testing.T) {
	root := t.TempDir()
	e := &evicter{images: []int64{10e6, 20e6, 30e6, 40e6}}
	m := &Meter{
		Root:        root,
		Images:      func(context.Context) (*ImageUsage, error) { return &ImageUsage{Size: e.total()}, nil },
		Containers:  func(context.Context) ([]container.Summary, error) { return nil, nil },
		Volumes:     func(context.Context) ([]volume.Volume, error) { return []volume.Volume{{Name: "large"}}, nil },
		VolumeUsers: func(string) []string { return nil },
	}
	data := filepath.Join(root, "volumes", "large", "_data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "f"), make([]byte, 5<<20), 0o644); err != nil { // no budget counts it
		t.Fatal(err)
	}
	b := NewBudget(m, e, &Reserve{}, Limits{High: "101MB"}, slog.Default())
	now := time.Now()
	keep := func() {
		t.Helper()
		if err := b.keep(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	if keep(); len(e.images) != 4 {
		t.Errorf("within the budget, and left %v", e.images)
	}
	b.SetLimits(Limits{High: "95MB"})
	if keep(); len(e.images) != 2 { // to 85.5 MB
		t.Errorf("left %v", e.images)
	}
	if !strings.HasPrefix(e.why, "disk budget: 100MB of 95MB were used") || !e.since.Equal(now.Add(-fresh)) {
		t.Errorf("%q %s", e.why, e.since)
	}
	b.SetLimits(Limits{High: "50MB", Low: "10%"})
	keep()
	if len(e.images) != 0 {
		t.Errorf("left %v", e.images)
	}
	e.images = nil
	if err := os.MkdirAll(filepath.Join(root, "containers", "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "containers", "c", "log"), make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	b.SetLimits(Limits{High: "1MB"})
	keep()
	keep()
	r, err := m.Report(t.Context(), Want{true, true, true, true})
	if err != nil || r.Own.Budget == nil || r.Own.Budget.Over == nil || !r.Own.Budget.Over.Equal(now) || r.Own.Budget.Used < 3<<20 || r.Own.Budget.Used > 4<<20 {
		t.Errorf("%+v %v", r.Own.Budget, err)
	}
	if r.Own.Total != du(t, root) {
		t.Errorf("%d bytes, du says %d", r.Own.Total, du(t, root))
	}
}

// small mounts a file system of a size.
func small(t *testing.T, bytes string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestReserve(t *testing.T) {
	dir := small(t, "100m")
	r := OpenReserve(dir, 64<<20, slog.Default())
	if n := Blocks(filepath.Join(dir, ReserveName)); n != 1<<20 { // one per cent
		t.Errorf("%d bytes are held back", n)
	}
	fill := func() error {
		f, err := os.OpenFile(filepath.Join(dir, "full"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 64<<10))
		}
		return err
	}
	if err := fill(); !IsFull(err) {
		t.Fatal(err)
	}
	write := func() error { return os.WriteFile(filepath.Join(dir, "small"), make([]byte, 10_000), 0o644) }
	if err := write(); !IsFull(err) {
		t.Fatalf("the disk is not full: %v", err)
	}
	r.Begin() // as a start on a full disk does
	if err := write(); err != nil {
		t.Errorf("with the reserve: %v", err)
	}
	if r.Release() {
		t.Error("it was given up twice")
	}
	if r.Make(); Blocks(filepath.Join(dir, ReserveName)) != 0 {
		t.Error("it was made of nothing")
	}
	if err := os.Remove(filepath.Join(dir, "full")); err != nil {
		t.Fatal(err)
	}
	if r.Make(); Blocks(filepath.Join(dir, ReserveName)) != 1<<20 {
		t.Error("it was not made again")
	}
	if r = OpenReserve(dir, 64<<20, slog.Default()); !r.held {
		t.Error("the next engine does not know it")
	}
	if OpenReserve(dir, 0, slog.Default()); Blocks(filepath.Join(dir, ReserveName)) != 0 {
		t.Error("a reserve of 0 is still there")
	}
}
