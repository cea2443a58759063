package box

import (
	"os"
	"testing"
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
	end := exchange(t, volume+"/a", volume+"/b")
	for range 40 {
		spec := boxSpec(t, root, "true")
		spec.Mounts = append(spec.Mounts,
			Mount{Type: MountBind, Source: volume, Target: "/vol"},
			Mount{Type: MountBind, Source: source, Target: "/vol/a/sub/deep"})
		spec.Process.Cwd = "/vol/a/work/dir"
		spec.Devices = []Device{{Path: "/vol/a/dev/zero", Type: "c", Major: 1, Minor: 5, Mode: 0o666}}
		p, err := testRuntime.Start(t.Context(), spec, Stdio{})
		if err != nil {
			continue // losing the race may be an error, never a way out
		}
		await(t, p)
		removeGroup(t, p)
	}
	end()
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("made outside of the root: %v", left)
	}
}
