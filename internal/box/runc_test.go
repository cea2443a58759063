package box

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What a box shows of itself.
const postureScript = `sed -e 's/^[0-9]* [0-9]* [^ ]* //' /proc/self/mountinfo
grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups|Sig(Blk|Ign)|Umask|PPid)' /proc/1/status
ls /proc/1/fd
for f in /dev/*; do echo $f $(stat -c '%a %u:%g %t:%T %N' $f); done
cat /proc/1/limits /proc/1/oom_score_adj
pwd; hostname; env | sort`

// explained are the differences from runc, each with its reason.
var explained = []string{
	" / rw,relatime - ",   // the root: an overlay here, a bind of the directory under runc
	"/sys/fs/cgroup",      // runc shows all hierarchies of the host, we those of the engine
	"/null /proc/",        // masked files: the host's verified /dev/null here, the box's own under runc
	"tmpfs tmpfs",         // masked directories: also nosuid,nodev,noexec here
	"/ /sys ro",           // runc makes the superblock read-only too; it may be shared, so only the mount is here
	"/proc/sysrq-trigger", // absent on kernels without it
	"SigIgn:",             // runc hands on what its parent ignores, a box has the defaults
}

// TestPosture compares a box with the same one made by runc.
func TestPosture(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal("install runc: it is the reference of this test")
	}
	root := image(t)
	if err := exec.Command("ln", "-s", "busybox", root+"/bin/sed").Run(); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("ln", "-s", "busybox", root+"/bin/sort").Run(); err != nil {
		t.Fatal(err)
	}
	spec := boxSpec(t, root, "sh", "-c", postureScript)
	dir := bundleOf(t, spec, root, false)
	reference, err := exec.Command(runc, "run", "-b", dir, spec.ID[:32]).CombinedOutput()
	if err != nil {
		t.Fatalf("runc: %v: %s", err, reference)
	}
	ours, _ := run(t, boxSpec(t, root, "sh", "-c", postureScript))
	report(t, "only under runc", lines(string(reference)), lines(ours))
	report(t, "only here", lines(ours), lines(string(reference)))
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

func report(t *testing.T, what string, have, reference []string) {
	t.Helper()
	for _, line := range have {
		if slices.Contains(reference, line) || slices.ContainsFunc(explained, func(e string) bool { return strings.Contains(line, e) }) {
			continue
		}
		t.Errorf("%s: %s", what, line)
	}
}
