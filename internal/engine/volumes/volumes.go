// Package volumes makes archives of what volumes hold, and volumes of archives.
package volumes

import (
	"bufio"
	"context"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"hezi/internal/box/copytree"
	"hezi/internal/engine/cp"
	"hezi/internal/snapshot"
	store "hezi/internal/volume"
)

// Archives of the volumes of a store.
type Archives struct{ store.States }

// Archive is a volume's content, opened to be written.
type Archive struct {
	dir  *os.File
	done func()
}

// Export opens what a volume holds; pause freezes the containers that run with it
// until Close. Errors: NotFound, FailedPrecondition.
func (a Archives) Export(ctx context.Context, name string, pause bool) (*Archive, error) {
	dir, done, err := a.Content(ctx, name, pause)
	if err != nil {
		return nil, err
	}
	return &Archive{dir, done}, nil
}

// Write makes the archive: a tar of names below "./", compressed by zstd unless plain.
func (a *Archive) Write(ctx context.Context, plain bool, to io.Writer) error {
	out := bufio.NewWriterSize(to, 256<<10) // of headers and small files
	if plain {
		if err := snapshot.TarEntry(ctx, a.dir, "", ".", nil, out); err != nil {
			return err
		}
		return out.Flush()
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	if err := snapshot.TarEntry(ctx, a.dir, "", ".", nil, z); err != nil {
		z.Close()
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return out.Flush()
}

// Close lets it go.
func (a *Archive) Close() { a.done() }

// Import makes a volume of an archive, plain or compressed. Errors: Conflict for a
// name that is there, InvalidArgument for what is no archive.
func (a Archives) Import(ctx context.Context, q volume.CreateRequest, archive io.Reader) (volume.Volume, error) {
	return a.Fill(ctx, q, func(path string) error {
		root, err := os.Open(path)
		if err != nil {
			return err
		}
		defer root.Close()
		t := cp.Tree{Root: root, Do: func(f func() error) error {
			return copytree.Apart(func() error { // no name in the archive leads out of the volume
				if err := unix.Fchdir(int(root.Fd())); err != nil {
					return err
				}
				if err := unix.Chroot("."); err != nil {
					return err
				}
				return f()
			})
		}}
		if err := t.Extract(ctx, "/", archive, cp.Options{Overwrite: true, Self: true}); err != nil {
			return err
		}
		return unix.Syncfs(int(root.Fd()))
	})
}
