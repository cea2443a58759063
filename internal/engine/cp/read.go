package cp

import (
	"context"
	"io"
	"os"
	"path"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"hezi/internal/snapshot"
)

// Source is what is at a path, opened to be archived.
type Source struct {
	Stat container.PathStat

	t      *Tree
	dir    *os.File // the directory, or what has the entry
	base   string   // "": all of the directory
	prefix string   // of the names in the archive
}

// Open opens what is at a path to be archived: a directory with all in it and
// on it, a link as a link.
func (t *Tree) Open(p string) (*Source, error) {
	s := &Source{t: t}
	var err error
	if s.Stat, err = t.Stat(p); err != nil {
		return nil, err
	}
	p = Clean(p)
	if s.Stat.Mode.IsDir() {
		s.prefix = path.Base(p)
		s.dir, err = t.directory(p)
		return s, err
	}
	s.base = path.Base(p)
	s.dir, err = t.directory(path.Dir(p))
	return s, err
}

// directory opens a directory, to be read.
func (t *Tree) directory(p string) (*os.File, error) {
	fd, err := openAt(int(t.Root.Fd()), p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// Write archives it.
func (s *Source) Write(ctx context.Context, w io.Writer) error {
	var owners func(uid, gid uint32) (uint32, uint32)
	if !s.t.IDs.Empty() {
		owners = s.t.owners
	}
	return snapshot.TarEntry(ctx, s.dir, s.base, s.prefix, owners, w)
}

// Close lets it go.
func (s *Source) Close() error { return s.dir.Close() }
