package copytree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// deepest bounds the folders that are open at once.
const deepest = 1000

// Give makes somebody the owner of a tree, at fd (O_PATH), and of all that is below on its
// file system. Links are given, not followed, and it goes from descriptor to
// descriptor: a container may swap folders for links meanwhile. What has the owner is
// not touched; the top is last.
func Give(fd int, uid, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return give(fd, st.Dev, uid, gid, deepest)
}

func give(fd int, device uint64, uid, gid uint32, levels int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Dev != device {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if levels == 0 {
			return fmt.Errorf("folders are nested more than %d deep: %w", deepest, unix.ELOOP)
		}
		if err := giveBelow(fd, device, uid, gid, levels-1); err != nil {
			return err
		}
	}
	if st.Uid == uid && st.Gid == gid {
		return nil
	}
	return unix.Fchownat(fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func giveBelow(dir int, device uint64, uid, gid uint32, levels int) error {
	open, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(open), strconv.Itoa(open))
	defer f.Close()
	for {
		list, err := f.Readdirnames(1000)
		for _, name := range list {
			fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err == nil {
				err = give(fd, device, uid, gid, levels)
				unix.Close(fd)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) { // it may go meanwhile
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
