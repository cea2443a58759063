package image

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hezi/internal/image/registry"
)

// reopen closes and opens the service of a root.
func reopen(t *testing.T, s *Service) *Service {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(context.Background(), Options{Root: s.root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestStartRemovesWhatBelongsToNothing(t *testing.T) {
	s, err := Open(t.Context(), Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, saved(t, small(t, "kept"), "kept:1"))
	must(t, s.CollectGarbage(t.Context()))
	s.trees.Drain(t.Context())
	blobs, ingest, snaps := filepath.Join(s.root, "content/blobs/sha256"), filepath.Join(s.root, "content/ingest"), filepath.Join(s.root, "layers/snapshots")
	blobsBefore, snapsBefore := files(t, blobs), files(t, snaps)

	// What a kill leaves at each step.
	mounted := filepath.Join(snaps, "999", "limited")
	orphan := filepath.Join(blobs, digest.FromString("x").Encoded())
	for _, dir := range []string{filepath.Join(ingest, strings.Repeat("a", 64)), filepath.Join(snaps, "new-123", "fs"), filepath.Join(snaps, "999", "fs", "usr"), mounted} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(orphan, []byte("x"), 0o444); err != nil {
		t.Fatal(err)
	}
	thrown := filepath.Join(s.root, "trash", "123", "limited") // as an engine before moved it
	must(t, os.MkdirAll(thrown, 0o755))
	for _, at := range []string{mounted, thrown} {
		if err := unix.Mount("none", at, "tmpfs", 0, ""); err != nil {
			t.Logf("this machine mounts nothing: %v", err)
		}
	}
	ctx := s.context(t.Context())
	for _, name := range []string{"below", "above"} { // known to the snapshotter alone
		parent := map[string]string{"above": "hezi/1/below"}[name]
		if _, err := s.base.Prepare(ctx, "hezi/0/"+name, parent); err != nil {
			t.Fatal(err)
		}
		if err := s.base.Commit(ctx, "hezi/1/"+name, "hezi/0/"+name); err != nil {
			t.Fatal(err)
		}
	}

	// What a power cut leaves of a download that is known.
	for _, empty := range []string{"ref", "startedat"} {
		w, err := content.OpenWriter(ctx, s.blobs, content.WithRef("pull-"+empty))
		must(t, err)
		_, err = w.Write([]byte("half"))
		must(t, err, w.Close())
		list, err := filepath.Glob(filepath.Join(ingest, "*", "ref"))
		must(t, err)
		for _, ref := range list {
			if b, err := os.ReadFile(ref); err == nil && strings.HasSuffix(string(b), "/pull-"+empty) {
				must(t, os.Truncate(filepath.Join(filepath.Dir(ref), empty), 0))
			}
		}
	}

	s = reopen(t, s)
	s.sweeper.EmptyTrash(t.Context())
	if got := files(t, blobs); !slices.Equal(got, blobsBefore) {
		t.Errorf("blobs %v, not %v", got, blobsBefore)
	}
	if got := files(t, snaps); !slices.Equal(got, snapsBefore) {
		t.Errorf("layers %v, not %v", got, snapsBefore)
	}
	if got := append(files(t, ingest), files(t, filepath.Join(s.root, "trash"))...); len(got) > 0 {
		t.Errorf("%v is left", got)
	}
	if list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.root)); err != nil || len(list) > 0 {
		t.Errorf("mounted: %v, %v", list, err)
	}
	if err := s.base.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if strings.HasSuffix(i.Name, "/below") || strings.HasSuffix(i.Name, "/above") {
			t.Errorf("%s is left", i.Name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(ctx, "kept:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := s.RootFS(ctx, img); err != nil || len(files(t, root.Lower[0])) == 0 {
		t.Error(root, err)
	}
}

// A lost database must not make everything garbage.
func TestLostDatabases(t *testing.T) {
	s, err := Open(t.Context(), Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, saved(t, small(t, "kept"), "kept:1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	snaps := filepath.Join(s.root, "layers/snapshots")
	before := files(t, snaps)
	if err := os.Rename(filepath.Join(s.root, "layers/metadata.db"), filepath.Join(s.root, "aside")); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), Options{Root: s.root})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if got := files(t, snaps); !slices.Equal(got, before) {
		t.Errorf("layers %v, not %v", got, before)
	}
	if err := os.Rename(filepath.Join(s.root, "images.db"), filepath.Join(s.root, "aside2")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the refusal leaves no empty database behind
		if _, err := Open(t.Context(), Options{Root: s.root}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "images.db is missing") {
			t.Errorf("opened: %v", err)
		}
	}
}

func TestLayersShareASync(t *testing.T) {
	s := open(t, registry.Config{})
	entered, leave := make(chan struct{}), make(chan error)
	s.flush.call = func(int) error {
		entered <- struct{}{}
		return <-leave
	}
	first := s.flush.join()
	<-entered // what is written from now on is not part of it
	second := s.flush.join()
	if second == first {
		t.Error("a layer took part in a sync that had begun before")
	}
	if third := s.flush.join(); third != second {
		t.Error("two layers that wait do not share a sync")
	}
	leave <- nil
	<-first.done
	<-entered
	leave <- unix.EIO
	<-second.done
	if first.err != nil || second.err == nil {
		t.Error(first.err, second.err)
	}
	s.flush.call = func(int) error { return nil }
	if err := s.flush.sync(0); err == nil {
		t.Error("a layer that was begun before writes were lost counts as saved")
	}
	if err := s.flush.sync(s.flush.mark()); err != nil {
		t.Errorf("a layer that was begun after that: %v", err)
	}
}
