package initproc

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open resolves p inside root; symbolic links cannot leave it.
func openIn(root int, p string, flags uint64, mode uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: inRoot}
	for {
		fd, err := unix.Openat2(root, p, &how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: a rename raced with ".."
			continue
		}
		return fd, err
	}
}

// ensure opens p inside root with O_PATH and makes what is missing of it: the
// last component as an empty file or as a directory, all others as directories.
func ensure(root int, p string, file bool) (int, error) {
	return ensureMode(root, p, file, 0o755)
}

func ensureMode(root int, p string, file bool, mode uint32) (int, error) {
	for range 40 { // the kernel's limit for symbolic links
		fd, err := openIn(root, p, unix.O_PATH, 0)
		if err != unix.ENOENT {
			return fd, err
		}
		next, err := extend(root, p, file, mode)
		if err != nil {
			return -1, err
		}
		p = next
	}
	return -1, unix.ELOOP
}

// extend makes the first missing component of p and returns the path to go on with.
func extend(root int, p string, file bool, mode uint32) (string, error) {
	parts := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
	dir, err := openIn(root, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer func() { unix.Close(dir) }()
	for i, name := range parts {
		fd, err := openIn(root, strings.Join(parts[:i+1], "/"), unix.O_PATH, 0)
		if err == nil {
			unix.Close(dir)
			dir = fd
			continue
		}
		if err != unix.ENOENT {
			return "", err
		}
		if file && i == len(parts)-1 {
			var made int
			made, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(made)
			}
		} else {
			err = unix.Mkdirat(dir, name, mode)
		}
		if err == nil {
			return p, nil
		}
		if err != unix.EEXIST {
			return "", err
		}
		return dangling(dir, parts, i)
	}
	return p, nil
}

// dangling follows the symbolic link parts[i] of dir, whose target is missing.
func dangling(dir int, parts []string, i int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, parts[i], buf)
	if err == unix.EINVAL { // made by someone else meanwhile
		return strings.Join(parts, "/"), nil
	}
	if err != nil {
		return "", err
	}
	target := string(buf[:n])
	if !strings.HasPrefix(target, "/") {
		target = strings.Join(parts[:i], "/") + "/" + target
	}
	if rest := parts[i+1:]; len(rest) > 0 {
		target += "/" + strings.Join(rest, "/")
	}
	return target, nil
}
