package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hezi/internal/image/tree"
)

// Labels of a layer's snapshot.
const (
	// TreeLabel is the digest of the layer's files when it was unpacked.
	TreeLabel = "hezi.tree"
	// bootLabel is the boot in which it was unpacked: until the next one, its
	// files are in memory as they were written, or read back from a disk that
	// has said that it has them.
	bootLabel = "hezi.boot"
	// recordsName is the file beside the layer's folder that names its files.
	recordsName = "tree.zst"
)

// Trees keeps the digests of unpacked layers. They are made behind a pull, when
// nothing is pulled or loaded any more, from files that are still in memory.
type Trees struct {
	Layers snapshots.Snapshotter
	// Ready makes sure that layers show what is in them; nil: they do if they are there.
	Ready      func(dirs []string) error
	UpperLabel string
	Context    func(context.Context) context.Context // puts the namespace in
	Log        *slog.Logger

	mu    sync.Mutex // guards what follows
	queue []string   // chain ids
	busy  int        // pulls and loads under way
	wake  chan struct{}

	recording sync.Mutex // held while one layer is recorded
}

var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// Mark is to be given to the commit of a layer.
func Mark() snapshots.Opt { return snapshots.WithLabels(map[string]string{bootLabel: bootID()}) }

// Later notes that a layer was unpacked.
func (t *Trees) Later(chain string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, chain)
	t.stirLocked()
}

// Busy holds the work back until done is called.
func (t *Trees) Busy() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.busy--
		t.stirLocked()
	})
}

func (t *Trees) stirLocked() {
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// wait returns a channel that is closed at the next change, nil when f holds.
func (t *Trees) wait(f func() bool) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f() {
		return nil
	}
	if t.wake == nil {
		t.wake = make(chan struct{})
	}
	return t.wake
}

func (t *Trees) until(ctx context.Context, f func() bool) error {
	for {
		changed := t.wait(f)
		if changed == nil {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	settleTime = 2 * time.Second       // after the last layer: the container that it is for starts
	stretch    = 10 * time.Millisecond // of work, then as much rest
)

// Run works until ctx ends.
func (t *Trees) Run(ctx context.Context) {
	t.resume(ctx)
	for t.until(ctx, func() bool { return len(t.queue) > 0 && t.busy == 0 }) == nil {
		if rest(ctx, settleTime) != nil {
			return
		}
		t.work(ctx, t.pace(ctx))
	}
}

// Drain makes at once what is to be made.
func (t *Trees) Drain(ctx context.Context) { t.work(ctx, nil) }

func (t *Trees) work(ctx context.Context, pace tree.Pace) {
	next := func() bool {
		t.recording.Lock()
		defer t.recording.Unlock()
		t.mu.Lock()
		if len(t.queue) == 0 {
			t.mu.Unlock()
			return false
		}
		chain := t.queue[0]
		t.queue = t.queue[1:]
		t.mu.Unlock()
		if _, err := t.record(ctx, chain, pace); err != nil && ctx.Err() == nil {
			t.Log.Warn("the digest of a layer's files cannot be kept: system check will compare the layer with its blob", "layer", chain, "error", err)
		}
		return true
	}
	for ctx.Err() == nil && next() {
	}
}

// pace lets pulls and loads go first, and works half of the time.
func (t *Trees) pace(ctx context.Context) tree.Pace {
	begun := time.Now()
	return func(int) error {
		if err := t.until(ctx, func() bool { return t.busy == 0 }); err != nil {
			return err
		}
		if time.Since(begun) < stretch {
			return nil
		}
		err := rest(ctx, stretch)
		begun = time.Now()
		return err
	}
}

func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resume takes up what a former hezid had no time for.
func (t *Trees) resume(ctx context.Context) {
	err := t.Layers.Walk(t.Context(ctx), func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted && i.Labels[TreeLabel] == "" && i.Labels[bootLabel] == bootID() {
			t.Later(i.Name)
		}
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
		t.Log.Warn("look for layers whose files were not digested", "error", err)
	}
}

// Record digests a layer's files as they are now and keeps the digest.
func (t *Trees) Record(ctx context.Context, chain string) (digest.Digest, error) {
	t.recording.Lock()
	defer t.recording.Unlock()
	return t.record(ctx, chain, nil)
}

func (t *Trees) record(ctx context.Context, chain string, pace tree.Pace) (digest.Digest, error) {
	ctx = t.Context(ctx)
	info, err := t.Layers.Stat(ctx, chain)
	if errdefs.IsNotFound(err) {
		return "", nil // removed meanwhile
	}
	if err != nil {
		return "", err
	}
	upper := info.Labels[t.UpperLabel]
	if t.Ready != nil {
		if err := t.Ready([]string{upper}); err != nil {
			return "", err
		}
	}
	sum, err := writeRecords(ctx, upper, pace)
	if err == nil {
		_, err = t.Layers.Update(ctx, snapshots.Info{Name: chain, Labels: map[string]string{TreeLabel: sum.String()}}, "labels."+TreeLabel)
	}
	if err != nil && (errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist)) {
		if _, serr := t.Layers.Stat(ctx, chain); errdefs.IsNotFound(serr) {
			return "", nil
		}
	}
	return sum, err
}

// writeRecords digests the files of upper, and names them in a file beside it.
func writeRecords(ctx context.Context, upper string, pace tree.Pace) (sum digest.Digest, err error) {
	dir := filepath.Dir(upper)
	f, err := os.OpenFile(filepath.Join(dir, "."+recordsName), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("name the files of a layer: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("name the files of a layer: %w", err), os.Remove(f.Name()))
		}
	}()
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return "", err
	}
	sum, err = tree.Sum(ctx, upper, pace, z)
	if err = errors.Join(err, z.Close()); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, recordsName)); err != nil {
		return "", err
	}
	return sum, syncFolder(dir)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// records opens the names of a layer's files.
func records(upper string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(filepath.Dir(upper), recordsName))
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, closer{z, f}}, nil
}

type closer struct {
	z *zstd.Decoder
	f *os.File
}

func (c closer) Close() error {
	c.z.Close()
	return c.f.Close()
}
