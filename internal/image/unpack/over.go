package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ErrNeedsParents says that a layer cannot be unpacked on its own: it names
// things that only the layers below have.
var ErrNeedsParents = errors.New("the layer builds on files of the layers below")

// NeedsParents says whether an unpacking failed in a way in which it may not
// fail over the layers below: a hard link to a file of theirs, or a folder.
func NeedsParents(err error) bool {
	for _, is := range []error{ErrNeedsParents, fs.ErrNotExist, fs.ErrExist, unix.ENOTDIR, unix.ELOOP, unix.ENOTEMPTY, unix.EISDIR} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// Apply unpacks a plain layer archive into root, where what is below is
// mounted, or nothing is below. root may be any folder: paths are resolved inside it.
func Apply(ctx context.Context, root string, r io.Reader) error {
	h := hider{made: make(map[string]struct{})}
	_, err := archive.Apply(ctx, root, r, archive.WithFilter(clean), archive.WithConvertWhiteout(h.whiteout))
	return err
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // aufs's own files
	whiteoutOpaque = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
)

// clean drops what no image may set: attributes that overlay itself reads, labels
// of SELinux, which are the host's, and the files that aufs left in old images.
func clean(h *tar.Header) (bool, error) {
	if err := inside(h.Name); err != nil {
		return false, err
	}
	maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool {
		name, ok := strings.CutPrefix(k, xattrRecord)
		return ok && (name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay."))
	})
	for part := range strings.SplitSeq(h.Name, "/") {
		if strings.HasPrefix(part, whiteoutMeta) && part != whiteoutOpaque {
			return false, nil
		}
	}
	return true, nil
}

// hider obeys whiteouts over the mounted layers below. They speak of those
// only, wherever in the layer they stand (image-spec, layer.md, whiteouts).
type hider struct {
	made  map[string]struct{} // paths that the layer itself has
	names int                 // bytes that made holds
}

// maxMade bounds what is kept of the names of such a layer, in bytes: about a
// million and a half files. containerd's archive keeps as much again.
var maxMade = 256 << 20

func (h *hider) whiteout(_ *tar.Header, p string) (bool, error) {
	dir, base := filepath.Split(p)
	switch {
	case base == whiteoutOpaque:
		list, err := os.ReadDir(dir)
		if err != nil {
			return false, err
		}
		for _, e := range list {
			if err := h.hide(filepath.Join(dir, e.Name())); err != nil {
				return false, err
			}
		}
		return false, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return false, h.hide(filepath.Join(dir, base[len(whiteoutPrefix):]))
	}
	for _, known := h.made[p]; !known; _, known = h.made[p] { // with its folders, up to /
		if h.names += len(p) + 64; h.names > maxMade { // 64: what a map needs beside the text
			return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it has more files than have names in %d MiB, and is built on those of the layers below: no image needs so many", maxMade>>20))
		}
		h.made[p] = struct{}{}
		p = filepath.Dir(p)
	}
	return true, nil
}

// hide removes p, or all in p that is not the layer's own. It follows no
// symbolic link.
func (h *hider) hide(p string) error {
	if _, own := h.made[p]; !own {
		return os.RemoveAll(p)
	}
	info, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := os.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := h.hide(filepath.Join(p, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
