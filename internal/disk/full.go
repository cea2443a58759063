package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What a file system has left, in bytes and inodes, that is taken for full.
const (
	little = 16 << 20
	few    = 64
)

// noInodes says whether a file system has hardly any left.
func noInodes(st *unix.Statfs_t) bool { return st.Files > 0 && st.Ffree <= min(few, st.Files/16) }

// NoSpace says why a data root takes nothing more (ENOSPC, EDQUOT), and what to do.
func NoSpace(root string) string {
	var st unix.Statfs_t
	if unix.Statfs(root, &st) == nil && noInodes(&st) {
		return fmt.Sprintf("the file system of %s has no inodes left, though it may have space: remove images, containers and volumes that you no longer need, or make it anew with more inodes (mkfs.ext4 -N)", root)
	}
	return fmt.Sprintf("the disk of %s is full: remove images and containers that you no longer need, or give it more space", root)
}

// readOnly says whether nothing can be made in the file system of a folder, which need
// not be there. That is not always seen: ext4 that stopped writing after an error shows
// itself as writable (Linux 6.15).
func readOnly(root string) bool {
	dir, err := os.MkdirTemp(root, ".trying-")
	switch above := filepath.Dir(root); {
	case err == nil:
		err = os.Remove(dir)
	case errors.Is(err, unix.ENOENT) && above != root:
		return readOnly(above)
	}
	return errors.Is(err, unix.EROFS)
}

// Explain adds to an error what is wrong with the file system of the data root, and
// what to do, if that is what the error is of. One that came as a text, from another
// process, is known by its end.
func Explain(root string, err error) error {
	is := func(errs ...unix.Errno) bool {
		for _, e := range errs {
			if errors.Is(err, e) || strings.HasSuffix(err.Error(), e.Error()) {
				return true
			}
		}
		return false
	}
	why := ""
	var st unix.Statfs_t
	switch {
	case is(unix.ENOSPC, unix.EDQUOT) && unix.Statfs(root, &st) == nil && (st.Bfree*uint64(st.Bsize) < little || noInodes(&st)):
		why = NoSpace(root)
	case is(unix.EROFS) && readOnly(root):
		why = fmt.Sprintf("the file system of %s is mounted read-only (after an error of the disk? `dmesg` tells): mount it writable", root)
	}
	if why == "" || strings.Contains(err.Error(), why) {
		return err
	}
	return fmt.Errorf("%w: %s", err, why)
}
