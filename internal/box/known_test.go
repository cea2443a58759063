package box

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// More escapes of other runtimes; docs/security.md lists all with their tests.

// TestLabelsGoToTheKernel: an image's volume over /proc takes no label of a security
// module, as it would without a word (CVE-2019-16884). This kernel, or its lack of
// such a profile, refuses the label, so a start that succeeds wrote it elsewhere.
func TestLabelsGoToTheKernel(t *testing.T) {
	root, fake := image(t), t.TempDir()
	files := []string{"self/attr/exec", "self/attr/apparmor/exec", "thread-self/attr/exec"}
	for _, f := range files {
		if err := os.MkdirAll(fake+"/"+f[:strings.LastIndex(f, "/")], 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, fake+"/"+f, "untouched", 0o666)
	}
	over := func() *Spec {
		spec := boxSpec(t, root, "sleep", "100")
		spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: fake, Target: "/proc"})
		return spec
	}
	label := func(p *Process, n int) string {
		if n == 0 {
			p.AppArmorProfile = "no-such-profile"
			return "unable to apply apparmor profile"
		}
		p.SELinuxLabel = "no:such:label:s0"
		return "cannot use the SELinux label"
	}
	box := start(t, over())
	for n := range 2 {
		spec := over()
		want := label(&spec.Process, n)
		if e := startError(t, spec); !strings.Contains(e.Message, want) {
			t.Errorf("start: %s", e.Message)
		}
		p := over().Process
		want = label(&p, n)
		p.Args = []string{"true"}
		if e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{}); err == nil {
			await(t, e)
			t.Error("exec: the label was written elsewhere")
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("exec: %v", err)
		}
	}
	for _, f := range files {
		if text, err := os.ReadFile(fake + "/" + f); err != nil || string(text) != "untouched" {
			t.Errorf("%s: %q, %v", f, text, err)
		}
	}
}

// TestDevElsewhere: /dev of an image is a link out of it (CVE-2026-41579). With a
// file system for it that is refused; without one, what is made stays inside.
func TestDevElsewhere(t *testing.T) {
	outside := t.TempDir()
	for _, to := range []string{outside, "../../../../../../.." + outside, "/proc/1/root" + outside} {
		root := image(t)
		if err := os.RemoveAll(root + "/dev"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, root+"/dev"); err != nil {
			t.Fatal(err)
		}
		if e := startError(t, boxSpec(t, root, "true")); !strings.Contains(e.Message, "symbolic link") {
			t.Error(e.Message)
		}
		for _, terminal := range []bool{false, true} {
			spec := boxSpec(t, root, "true")
			withoutDev(spec)
			spec.Mounts = append(spec.Mounts, Mount{Type: MountDevpts, Target: "/dev/pts", Data: "newinstance,ptmxmode=0666"},
				Mount{Type: MountTmpfs, Target: "/dev/shm"})
			spec.Devices = []Device{{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, Mode: 0o666}}
			spec.Process.Terminal, spec.Process.Cwd = terminal, "/dev/work"
			p, err := testRuntime.Start(t.Context(), spec, Stdio{})
			if err != nil {
				continue // an error is as good
			}
			if terminal {
				readConsole(t, p)
			}
			await(t, p)
			removeGroup(t, p)
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Fatalf("%s: made outside of the root: %v", to, left)
		}
	}
}

// TestRacingDev: /dev is swapped for a link to a volume once it is mounted; no
// device is made in the volume, which others can reach.
func TestRacingDev(t *testing.T) {
	root, volume := image(t), t.TempDir()
	for _, dir := range []string{"dev", "vol"} {
		if err := os.MkdirAll(root+"/"+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("vol", root+"/other"); err != nil {
		t.Fatal(err)
	}
	end := exchange(t, root+"/dev", root+"/other")
	defer end()
	for range 60 {
		spec := boxSpec(t, root, "true")
		spec.Root = Root{Path: root}
		withoutDev(spec)
		spec.Mounts = slices.Concat([]Mount{{Type: MountBind, Source: volume, Target: "/vol"}}, spec.Mounts, []Mount{{Type: MountTmpfs, Target: "/dev"}})
		spec.Devices = []Device{{Path: "/dev/sub/sda", Type: "b", Major: 8, Minor: 0, Mode: 0o666}}
		tryRun(t, spec)
		list, err := os.ReadDir(volume)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Name() != "sub" && e.Type()&(os.ModeDevice|os.ModeSymlink) == 0 {
				continue
			}
			t.Fatalf("%s was made in the volume", e)
		}
	}
}

// TestRacingCopyUp: another container that has the volume swaps its directories for
// links while the image's files are copied into it, as `docker cp` was raced
// (CVE-2018-15664).
func TestRacingCopyUp(t *testing.T) {
	root, outside := image(t), t.TempDir()
	for _, dir := range []string{"a", "b", "c"} {
		if err := os.MkdirAll(root+"/data/"+dir+"/deep", 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			write(t, root+"/data/"+dir+"/deep/f"+string(rune('A'+i)), "text", 0o644)
		}
	}
	for _, to := range []string{outside, "../../../../../../.." + outside, "/proc/self/root" + outside} {
		for i := range 6 {
			base := t.TempDir()
			volume, link, dir := base+"/volume", base+"/link", []string{"/a", "/b/deep"}[i%2]
			if err := os.Mkdir(volume, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, link); err != nil {
				t.Fatal(err)
			}
			end := exchange(t, volume+dir, link)
			spec := boxSpec(t, root, "true")
			spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: volume, Target: "/data", CopyUp: true})
			tryRun(t, spec)
			end()
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Fatalf("%s: copied to the outside: %v", to, left)
		}
	}
}
