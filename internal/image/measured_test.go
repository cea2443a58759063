package image

import (
	"archive/tar"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"

	"hezi/internal/image/registry"
)

// What is recorded of an unpacked layer is what du counts on the disk.
func TestLayersAreMeasured(t *testing.T) {
	reg := newFake(t)
	big := strings.Repeat("0123456789abcdef", settles/8)
	reg.push("x:1", imageOf(t,
		[]entry{dir("d"), file("d/a", "x"), {name: "d/b", kind: tar.TypeLink, link: "d/a"}, {name: "l", kind: tar.TypeSymlink, link: strings.Repeat("t", 200)}, file("big", big)},
		[]entry{file("e/a", "x"), file("d/a", big), file(".wh.l", "")}))
	s := open(t, registry.Config{})
	if _, err := reg.try(s, "x:1"); err != nil {
		t.Fatal(err)
	}
	ctx, n := s.context(t.Context()), 0
	err := s.base.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		n++
		got, err := s.base.Usage(ctx, i.Name)
		if err != nil {
			return err
		}
		want, err := fs.DiskUsage(ctx, filepath.Clean(i.Labels[upperLabel]))
		if err != nil {
			return err
		}
		if got != snapshots.Usage(want) {
			t.Errorf("layer %s: %+v, du says %+v", i.Name, got, want)
		}
		return nil
	})
	if err != nil || n < 2 {
		t.Errorf("%d layers: %v", n, err)
	}
}
