package box

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRacingTarget: another container swaps a directory of a shared volume for
// a link out of the root while a mount below it is made (CVE-2024-45310).
func TestRacingTarget(t *testing.T) {
	root, volume, outside, source := image(t), t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Mkdir(volume+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../.."+outside, volume+"/b"); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, volume+"/a", unix.AT_FDCWD, volume+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 40 {
		spec := boxSpec(t, root, "true")
		spec.Mounts = append(spec.Mounts,
			Mount{Type: MountBind, Source: volume, Target: "/vol"},
			Mount{Type: MountBind, Source: source, Target: "/vol/a/sub/deep"})
		p, err := testRuntime.Start(t.Context(), spec, Stdio{})
		if err != nil {
			continue // losing the race may be an error, never a way out
		}
		await(t, p)
		removeGroup(t, p)
	}
	close(stop)
	<-stopped
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("made outside of the root: %v", left)
	}
}

// TestInitIsSealed: nothing can write to the init that the keeper runs.
func TestInitIsSealed(t *testing.T) {
	if _, err := testRuntime.init.WriteAt([]byte{0}, 0); err == nil {
		t.Error("the memfd can be written to")
	}
	spec := boxSpec(t, image(t), "/proc/self/exe")
	if _, code := run(t, spec); code == 0 {
		t.Error("/proc/self/exe ran as something")
	}
}
