package box

import (
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// legacyOverlay says whether the kernel's overlay reads its options as one
// string, as it did before Linux 6.5: it then takes any option until the mount
// is made, and fsconfig(2) gives it 255 bytes of each at most.
var legacyOverlay = sync.OnceValue(func() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false // whoever mounts says why
	}
	defer unix.Close(fs)
	return unix.FsconfigSetFlag(fs, "no-such-option") == nil
})

// MaxLayers is how many layers one overlay has at most (OVL_MAX_STACK), the lowest
// and the uppermost among them; before Linux 6.5 their names must fit into a page.
func MaxLayers() int {
	if legacyOverlay() {
		return unix.Getpagesize() / 100 // writable/ID/fs.NN
	}
	return 500
}

// mountLegacyOverlay makes the mount by mount(2), in a mount namespace that only one
// thread is in and that ends with it. It works from the directory that all
// layers share, so that many of them fit into the one page that mount(2) takes.
func mountLegacyOverlay(o *Overlay) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		fd, err := mountPrivately(o)
		done <- result{fd, err}
	}()
	got := <-done
	if got.err != nil {
		return -1, got.err
	}
	return writableOverlay(got.fd, o) // there the layers were covered
}

func mountPrivately(o *Overlay) (int, error) {
	dirs := append([]string{}, o.Lower...)
	if o.Upper != "" {
		dirs = append(dirs, o.Upper, o.Work)
	}
	base := commonDir(dirs)
	fail := func(err error) (int, error) { return -1, overlayError(-1, o, err) }
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fail(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(err)
	}
	if err := unix.Chdir(base); err != nil {
		return fail(err)
	}
	name := func(dir string) string {
		rel, err := filepath.Rel(base, dir)
		if err != nil {
			rel = dir
		}
		return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(rel)
	}
	var lower []string
	for _, d := range o.Lower {
		lower = append(lower, name(d))
	}
	options := []string{"lowerdir=" + strings.Join(lower, ":")}
	if o.Upper != "" {
		options = append(options, "upperdir="+name(o.Upper), "workdir="+name(o.Work))
		if o.Volatile {
			options = append(options, "volatile")
		}
	}
	if o.Label != "" {
		options = append(options, `context="`+o.Label+`"`)
	}
	data := strings.Join(options, ",")
	if len(data) >= unix.Getpagesize() {
		return fail(unix.E2BIG)
	}
	// What is covered here, nobody else sees.
	if err := unix.Mount("overlay", base, "overlay", 0, data); err != nil {
		return fail(err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, base, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	return fd, nil
}

// commonDir is the deepest directory that all paths are below.
func commonDir(paths []string) string {
	base := filepath.Dir(filepath.Clean(paths[0]))
	for _, p := range paths[1:] {
		for base != "/" && !strings.HasPrefix(filepath.Clean(p)+"/", base+"/") {
			base = filepath.Dir(base)
		}
	}
	return base
}
