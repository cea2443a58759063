package box

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOverlay makes a detached overlay mount: no one but the box sees it.
func mountOverlay(o *Overlay) (int, error) {
	if legacyOverlay() {
		return mountLegacyOverlay(o)
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, stepError(StepRoot, "overlay", err, "the kernel cannot mount overlay file systems (is the module there? `modprobe overlay`)")
	}
	defer unix.Close(fs)
	set := func(key, value string) error { return unix.FsconfigSetString(fs, key, value) }
	if err := set("source", "overlay"); err != nil {
		return -1, overlayError(fs, o, err)
	}
	for _, dir := range o.Lower { // one by one there is no limit of length and no character to escape
		if err := set("lowerdir+", dir); err != nil {
			return -1, overlayError(fs, o, err)
		}
	}
	if o.Upper != "" {
		for _, kv := range [][2]string{{"upperdir", o.Upper}, {"workdir", o.Work}} {
			value := strings.ReplaceAll(kv[1], `\`, `\\`) // the kernel unescapes these two
			if err := set(kv[0], value); err != nil {
				return -1, overlayError(fs, o, err)
			}
		}
	}
	return finishOverlay(fs, o)
}

// finishOverlay sets what does not depend on where the layers come from, and mounts.
func finishOverlay(fs int, o *Overlay) (int, error) {
	if o.Volatile && o.Upper != "" {
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return -1, overlayError(fs, o, err)
		}
	}
	if o.Label != "" {
		if err := unix.FsconfigSetString(fs, "context", o.Label); err != nil {
			return -1, labelError(o.Label, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, overlayError(fs, o, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, overlayError(fs, o, err)
	}
	return writableOverlay(fd, o)
}

// writableOverlay refuses an overlay that the kernel has mounted read-only, since it
// could not make its work directory, and has only told its own log.
func writableOverlay(fd int, o *Overlay) (int, error) {
	var st unix.Statfs_t
	if o.Upper == "" || unix.Fstatfs(fd, &st) != nil || st.Flags&unix.ST_RDONLY == 0 {
		return fd, nil
	}
	unix.Close(fd)
	trial := filepath.Join(o.Work, "trial") // fails as the kernel's directory did
	cause := unix.Mkdir(trial, 0o700)
	if cause == nil {
		_ = unix.Rmdir(trial) // overlay empties the directory at the next mount
		return -1, stepError(StepRoot, "overlay", unix.EROFS, "cannot mount the container's root file system (overlay) writable: the kernel's log (`dmesg`) says why")
	}
	return -1, stepError(StepRoot, "overlay", cause, "cannot mount the container's root file system (overlay) writable: make a directory in "+o.Work+" (if there is no space, remove snapshots or files of the container, or free space on the host)")
}

func labelError(label string, err error) error {
	return stepError(StepRoot, label, err, "cannot give the root file system the SELinux label "+strconv.Quote(label)+" (is SELinux enabled?)")
}

// ownLayer says whether a directory is one of those that a container has for itself: they
// are in a folder beside the lowest layer, which all containers share.
func ownLayer(o *Overlay, dir string) bool {
	n := len(o.Lower)
	return n > 0 && dir != o.Lower[n-1] && strings.HasPrefix(dir, filepath.Dir(o.Lower[n-1])+"/")
}

// overlayError explains the errors that overlay gives without words.
func overlayError(fs int, o *Overlay, err error) error {
	if step, ok := err.(*Error); ok {
		return step
	}
	message := "cannot mount the container's root file system (overlay)"
	for _, dir := range append([]string{o.Upper, o.Work}, o.Lower...) {
		var st unix.Stat_t
		if dir == "" {
			continue
		}
		what := ""
		if unix.Stat(dir, &st) != nil {
			what = " is missing"
		} else if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			what = " is no directory"
		}
		switch {
		case what == "":
		case ownLayer(o, dir): // one that somebody removed
			what += " (it had what the container wrote, and somebody removed it: put it back, or remove the container)"
		case slices.Contains(o.Lower, dir):
			what += " (it is a layer of the image: `hezi system check --images --repair` unpacks it again)"
		}
		if what != "" {
			return stepError(StepRoot, dir, err, message+": the directory "+dir+what)
		}
	}
	buf := make([]byte, 1024)
	if n, readErr := unix.Read(fs, buf); fs >= 0 && readErr == nil && n > 2 {
		message += ": the kernel says: " + strings.TrimSpace(string(buf[2:n]))
	}
	switch err {
	case unix.EINVAL:
		message += " (upper and work must be on one file system that supports overlay's extended attributes, which another overlay does not; a layer is named at most once)"
	case unix.EBUSY:
		message += " (the upper or work directory belongs to another container that runs)"
	case unix.E2BIG, unix.ENAMETOOLONG:
		message += " (too many layers for this kernel)"
	}
	return stepError(StepRoot, o.Upper, err, message)
}
