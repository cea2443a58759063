package box

import (
	"os"
	"strings"
	"testing"
)

// TestMasksAreReadOnly: a masked file is the host's own /dev/null: nothing in a
// box may change its mode or owner.
func TestMasksAreReadOnly(t *testing.T) {
	before, err := os.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	root := image(t)
	for range 2 { // with and without a prepared spare
		spec := boxSpec(t, root, "sh", "-c", "for f in /proc/timer_list /proc/keys; do chmod 604 $f; chown 7 $f; echo x > $f && cat $f; done; true")
		spec.MaskedPaths = []string{"/proc/timer_list", "/proc/keys"}
		out, code := run(t, spec)
		if code != 0 || strings.Count(out, "Read-only file system") != 4 {
			t.Errorf("exit code %d, output %q", code, out)
		}
	}
	after, err := os.Stat("/dev/null")
	if err != nil || after.Mode() != before.Mode() {
		t.Errorf("the host's /dev/null was %v and is %v (%v)", before.Mode(), after.Mode(), err)
	}
}

// TestDanglingFile: a file is mounted where the image has a symbolic link to
// one that is missing, as a root with systemd-resolved has for resolv.conf.
func TestDanglingFile(t *testing.T) {
	root := image(t)
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../run/resolve/stub.conf", root+"/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir() + "/resolv"
	write(t, source, "nameserver 192.0.2.1\n", 0o644)
	spec := boxSpec(t, root, "cat", "/etc/resolv.conf")
	spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: source, Target: "/etc/resolv.conf"})
	if out, code := run(t, spec); code != 0 || out != "nameserver 192.0.2.1\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
}
