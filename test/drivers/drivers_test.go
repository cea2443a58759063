// Package drivers runs the same scripts with each storage driver, on a file system
// of its kind.
package drivers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hezi/test/harness"
)

// on mounts a file system that is made by mkfs in a file, and returns where.
func on(t *testing.T, mkfs ...string) string {
	t.Helper()
	if mkfs == nil {
		return os.TempDir()
	}
	program, err := exec.LookPath(mkfs[0])
	if err != nil {
		t.Skipf("the program %s is missing", mkfs[0])
	}
	image, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	for _, c := range [][]string{{"truncate", "-s", "1G", image}, append(append([]string{program}, mkfs[1:]...), image), {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("this machine cannot make and mount such a file system: %s: %v: %s", strings.Join(c, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at
}

// kinds are the drivers, each on a file system of its kind.
var kinds = []struct {
	driver string
	mkfs   []string
	needs  []string // programs
}{
	{driver: "overlay2", mkfs: []string{"mkfs.xfs", "-q"}},
	{driver: "vfs", mkfs: []string{"mkfs.ext4", "-q", "-F"}},
	{driver: "vfs", mkfs: []string{"mkfs.xfs", "-q"}}, // where copies share blocks
	{driver: "btrfs", mkfs: []string{"mkfs.btrfs", "-q"}},
	{driver: "fuse-overlayfs", needs: []string{"fuse-overlayfs"}},
	{driver: "erofs", needs: []string{"mkfs.erofs"}},
}

// start starts an engine with a driver, below dir.
func start(t *testing.T, dir string, args ...string) *harness.Engine {
	t.Helper()
	t.Setenv("TMPDIR", dir)
	e := harness.Start(t, args...)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDrivers(t *testing.T) {
	for _, k := range kinds {
		name := k.driver
		if len(k.mkfs) > 0 {
			name += "-" + k.mkfs[0][len("mkfs."):]
		}
		t.Run(name, func(t *testing.T) {
			for _, p := range k.needs {
				if _, err := exec.LookPath(p); err != nil {
					t.Skipf("the program %s is missing", p)
				}
			}
			e := start(t, on(t, k.mkfs...), "--storage-driver="+k.driver)
			if got := e.Must(t, "info", "--format", "{{.Driver}}"); got != k.driver {
				t.Fatalf("info says %s", got)
			}
			for _, kind := range []string{"--privileged=false", "--privileged"} { // what is made once is made
				e.Must(t, "run", "--rm", kind, "busybox", "true")
			}
			before := e.Count()
			scripts := []string{"testdata/files.txtar", filepath.Join("..", "e2e", "testdata", "snapshot.txtar")}
			if os.Getenv("HEZI_ALL_DRIVERS") != "" {
				for _, s := range []string{"commit", "cp", "export", "images", "life", "mounts", "run", "save", "start"} {
					scripts = append(scripts, filepath.Join("..", "e2e", "testdata", s+".txtar"))
				}
			}
			e.RunScripts(t, testscript.Params{Files: scripts})
			survives(t, e)
			saved(t, e)
			limited(t, e, k.driver)
			sizes(t, e)
			damaged(t, e)
			if ids := e.Must(t, "ps", "-aq"); ids != "" {
				t.Errorf("containers are left:\n%s", e.Must(t, "ps", "-a"))
			}
			e.NothingLeft(t, before, 4)
		})
	}
}

// survives has a container run on while hezid is killed, while the keeper is, and
// while both are.
func survives(t *testing.T, e *harness.Engine) {
	t.Helper()
	e.Must(t, "run", "-d", "--name", "lasting", "busybox", "sh", "-c", "echo before > /file; exec sleep 1000")
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if got := e.Must(t, "exec", "lasting", "cat", "/file"); got != "before" {
		t.Errorf("after hezid was killed: %q", got)
	}
	keeper, _ := e.Keeper()
	p, err := os.FindProcess(keeper)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Must(t, "exec", "lasting", "sh", "-c", "echo after >> /file; cat /file"); got != "before\nafter" {
		t.Errorf("after the keeper was killed: %q", got)
	}
	if got := e.Must(t, "diff", "lasting"); got != "A /file" {
		t.Errorf("diff: %q", got)
	}
	e.Must(t, "restart", "-t", "0", "lasting")
	got := ""
	for range 200 { // until it has begun
		if got = e.Must(t, "exec", "lasting", "cat", "/file"); got == "before" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got != "before" {
		t.Errorf("after a restart: %q", got)
	}
	e.Must(t, "rm", "-f", "lasting")
}

// saved makes snapshots of a container that has just written much, and asks for all
// of it after a rollback, also after the engine was killed.
func saved(t *testing.T, e *harness.Engine) {
	t.Helper()
	e.Must(t, "run", "-d", "--name", "saved", "busybox", "sh", "-c", "test -e /sum || { head -c 30000000 /dev/urandom > /file; md5sum /file > /sum; mkdir /old; }; touch /ready; exec sleep 1000")
	for range 200 {
		if e.Hezi("exec", "saved", "test", "-e", "/ready").Code == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	e.Must(t, "exec", "-d", "saved", "sh", "-c", "(yes words | head -c 10000000; exec sleep 1000) | dd of=/late bs=100000") // stays open, and nobody else opens it
	for range 200 {
		if e.Hezi("exec", "saved", "sh", "-c", "test $(stat -c %s /late) = 10000000").Code == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	e.Must(t, "snapshot", "saved", "while-it-ran")
	e.Must(t, "exec", "saved", "sh", "-c", "echo short > /file; rm -r /late /old /etc/group; sync")
	e.Must(t, "stop", "-t", "0", "saved")
	e.Must(t, "snapshot", "saved", "spoiled")
	e.Must(t, "rollback", "saved", "while-it-ran")
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "start", "saved")
	if r := e.Hezi("exec", "saved", "sh", "-c", "md5sum -c /sum && test -d /old && test -s /etc/group && yes words | head -c 10000000 | cmp - /late"); r.Code != 0 {
		t.Errorf("after the rollback: %s%s", r.Out, r.Err)
	}
	e.Must(t, "rollback", "--restart", "saved", "spoiled")
	if got := e.Must(t, "exec", "saved", "cat", "/file"); got != "short" {
		t.Errorf("after the other rollback: %q", got)
	}
	e.Must(t, "snapshots", "--rm", "spoiled", "--rm", "while-it-ran", "saved")
	if got := e.Must(t, "snapshots", "-q"); got != "" {
		t.Errorf("snapshots are left: %q", got)
	}
	e.Must(t, "rm", "-f", "saved")
}

// limited bounds a container's disk space: on these file systems by btrfs itself, or by
// disks in files.
func limited(t *testing.T, e *harness.Engine, driver string) {
	t.Helper()
	full := "No space left on device"
	if driver == "btrfs" {
		full = "Disk quota exceeded"
	}
	overfull := func(when string, args ...string) {
		t.Helper()
		if r := e.Hezi(args...); r.Code != 1 || !strings.Contains(r.Err, full) {
			t.Errorf("40 MB of 20 %s: %d %s", when, r.Code, r.Err)
		}
	}
	fill := []string{"sh", "-c", "touch /kept; dd if=/dev/zero of=/more bs=1M count=40 && sync"}
	overfull("at once", append([]string{"run", "--name", "limited", "--storage-opt", "size=20m", "busybox"}, fill...)...)
	if driver != "btrfs" {
		limitedOnDisk(t, e, driver)
	}
	e.Must(t, "snapshot", "limited", "full")
	overfull("after a snapshot", "start", "-a", "limited") // what is written anew
	e.Must(t, "rollback", "limited", "full")
	overfull("after a rollback", "start", "-a", "limited")
	if got := e.Must(t, "diff", "limited"); got != "A /kept\nA /more" {
		t.Errorf("diff: %q", got)
	}
	e.Must(t, "commit", "limited", "of-limited:latest")
	if got := e.Must(t, "run", "--rm", "of-limited:latest", "ls", "/kept"); got != "/kept" {
		t.Errorf("of its commit: %q", got)
	}
	e.Must(t, "rmi", "of-limited:latest")
	e.Must(t, "rm", "limited")
	e.Must(t, "run", "--rm", "--storage-opt", "size=60m", "busybox", "dd", "if=/dev/zero", "of=/more", "bs=1M", "count=40")
	e.Must(t, append([]string{"run", "--rm", "busybox"}, fill...)...) // without a limit
	if got := disksAre(t, e, 0); len(got) != 0 {
		t.Errorf("disks are left: %q", got)
	}
}

// disksAre waits until there are n: who has copied the host's mounts, as every process that
// makes a mount namespace for itself does, keeps what is unmounted until it ends.
func disksAre(t *testing.T, e *harness.Engine, n int) (list []string) {
	t.Helper()
	for range 200 {
		if list = disks(t, e); len(list) == n {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return list
}

// disks are the files with disks of containers that loop devices have.
func disks(t *testing.T, e *harness.Engine) (list []string) {
	t.Helper()
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		name, err := os.ReadFile(f)
		if err == nil && strings.HasPrefix(string(name), e.Dir+"/") { // else it is gone now
			list = append(list, strings.TrimSpace(string(name)))
		}
	}
	return list
}

// limitedOnDisk asks for what limited bounds after the engine was away, and after the disk was,
// as in a reboot; and for who runs meanwhile.
func limitedOnDisk(t *testing.T, e *harness.Engine, driver string) {
	t.Helper()
	e.Must(t, "run", "-d", "--name", "writing", "--storage-opt", "size=20m", "busybox", "sh", "-c", "while sleep 0.05; do date >> /log; done")
	got := disks(t, e)
	if len(got) != 2 {
		t.Fatalf("the disks: %q", got)
	}
	e.Down()
	if got := disksAre(t, e, 1); len(got) != 1 {
		t.Errorf("hezid has ended, and the disks are %q, not that of the container which runs alone", got)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	lines := e.Must(t, "exec", "writing", "wc", "-l", "/log")
	time.Sleep(200 * time.Millisecond)
	if now := e.Must(t, "exec", "writing", "wc", "-l", "/log"); now == lines {
		t.Errorf("the container stopped writing at %s", lines)
	}
	if got := e.Must(t, "diff", "writing"); got != "A /log" {
		t.Errorf("diff: %q", got)
	}
	e.Must(t, "rm", "-f", "writing")
	if got := e.Must(t, "ps", "-as", "--filter", "name=limited", "--format", "{{.Size}}"); !strings.HasPrefix(got, "2") && driver != "fuse-overlayfs" { // where the file has a hole at its end

		t.Errorf("ps -s: %q", got)
	}
	df := e.Must(t, "system", "df", "-v", "--format", "json")
	if !strings.Contains(df, `"Names":"limited"`) {
		t.Errorf("system df -v: %s", df)
	}
	e.Down()
	if got := disksAre(t, e, 0); len(got) != 0 {
		t.Fatalf("hezid has ended, and loop devices have %q", got)
	}
	all, err := filepath.Glob(filepath.Join(e.Dir, "data", "*", "*", "disk.ext4"))
	deeper, _ := filepath.Glob(filepath.Join(e.Dir, "data", "*", "snapshots", "*", "disk.ext4"))
	if all = append(all, deeper...); err != nil || len(all) != 1 {
		t.Fatalf("the disk's file: %q, %v", all, err)
	}
	if err := os.Rename(all[0], all[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(all[0], make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Up(); err != nil {
		t.Fatalf("with a damaged disk: %v", err)
	}
	for _, args := range [][]string{{"start", "-a", "limited"}, {"snapshot", "limited"}} {
		if r := e.Hezi(args...); r.Code == 0 || !strings.Contains(r.Err, "it is damaged: `fsck.ext4 ") {
			t.Errorf("%q with a damaged disk: %d %s", args, r.Code, r.Err)
		}
	}
	if got := e.Must(t, "ps", "-as", "--filter", "name=limited", "--format", "{{.Names}} {{.Size}}"); !strings.HasPrefix(got, "limited 0B") {
		t.Errorf("ps -s with a damaged disk: %q", got)
	}
	e.Must(t, "run", "--rm", "busybox", "true")
	if err := os.Rename(all[0]+".away", all[0]); err != nil {
		t.Fatal(err)
	}
}

// sizes asks how much containers take.
func sizes(t *testing.T, e *harness.Engine) {
	t.Helper()
	e.Must(t, "run", "--name", "sized", "busybox", "sh", "-c", "head -c 3000000 /dev/urandom > /file; rm /etc/group")
	if got := e.Must(t, "ps", "-a", "--filter", "name=sized", "--size", "--format", "{{.Size}}"); !strings.HasPrefix(got, "3MB (virtual ") {
		t.Errorf("ps -s: %q", got)
	}
	if r := e.Hezi("system", "df", "-v"); r.Code != 0 || !strings.Contains(r.Out, "sized") {
		t.Errorf("system df -v: %s%s", r.Out, r.Err)
	}
	if r := e.Hezi("system", "check", "--images"); r.Code != 0 {
		t.Errorf("system check --images: %s%s", r.Out, r.Err)
	}
	e.Must(t, "rm", "sized")
}

// damaged removes a layer: its image says so and is repaired, another one runs.
func damaged(t *testing.T, e *harness.Engine) {
	t.Helper()
	e.Must(t, "run", "--name", "more", "busybox", "sh", "-c", "echo more > /more")
	e.Must(t, "commit", "more", "more:latest")
	e.Must(t, "run", "--rm", "more:latest", "true")
	e.Must(t, "rm", "more")
	var found []string
	var err error
	for range 100 { // with some drivers, those of the containers go in a moment
		found, err = filepath.Glob(filepath.Join(e.Dir, "data", "layers*", "snapshots", "*", "fs", "more"))
		if err != nil || len(found) == 1 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil || len(found) != 1 {
		t.Fatalf("the layer's folder: %q, %v", found, err)
	}
	layer := filepath.Dir(found[0])
	if file := filepath.Join(filepath.Dir(layer), "layer.erofs"); exists(file) {
		if out, err := exec.Command("umount", layer).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		layer = file
	}
	if err := os.RemoveAll(layer); err != nil {
		t.Fatal(err)
	}
	if r := e.Hezi("run", "--rm", "more:latest", "true"); r.Code != 125 || !strings.Contains(r.Err, "system check --images --repair") {
		t.Errorf("a layer is missing: %d %s", r.Code, r.Err)
	}
	e.Down()
	if err := e.Up(); err != nil {
		t.Fatalf("a layer is missing: %v", err)
	}
	e.Must(t, "run", "--rm", "busybox", "true")
	if r := e.Hezi("system", "check", "--images", "--repair"); r.Code != 0 {
		t.Errorf("repair: %s%s", r.Out, r.Err)
	}
	if got := e.Must(t, "run", "--rm", "more:latest", "cat", "/more"); got != "more" {
		t.Errorf("after the repair: %q", got)
	}
	e.Must(t, "rmi", "more:latest")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestChange: another driver leaves what the one before has alone, and says what to do;
// with that again, all is as it was.
func TestChange(t *testing.T) {
	e := start(t, os.TempDir())
	use := func(driver string) {
		t.Helper()
		e.Down()
		if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(`{"storage-driver": "`+driver+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := e.Up(); err != nil {
			t.Fatal(err)
		}
	}
	made := func(name, text string) {
		t.Helper()
		if r := e.Hezi("run", "--name", name, "busybox", "sh", "-c", "test -e /file && exec cat /file; echo "+text+" > /file; exit 3"); r.Code != 3 {
			t.Fatalf("run: %d, %s", r.Code, r.Err)
		}
	}
	refused := func(name, by, now string) {
		t.Helper()
		for _, args := range [][]string{{"start", "-a", name}, {"diff", name}, {"cp", name + ":/file", "-"}, {"commit", name}, {"snapshot", name}} {
			r := e.Hezi(args...)
			if r.Code == 0 || !strings.Contains(r.Err, "keeps its files by the storage driver "+by+", and hezid uses "+now+" now") {
				t.Errorf("%v: %d, %q", args, r.Code, r.Err)
			}
		}
		if got := e.Must(t, "inspect", "-f", "{{.State.ExitCode}}", name); got != "3" {
			t.Errorf("%s ended with %s, says inspect", name, got)
		}
	}
	made("of-overlay", "kernel")
	use("vfs")
	refused("of-overlay", "overlay2", "vfs")
	made("of-vfs", "copy") // of an image that is unpacked again
	use("overlay2")
	refused("of-vfs", "vfs", "overlay2")
	if got := e.Must(t, "start", "-a", "of-overlay"); got != "kernel" {
		t.Errorf("back again: %q", got)
	}
	use("vfs")
	if got := e.Must(t, "start", "-a", "of-vfs"); got != "copy" {
		t.Errorf("back again: %q", got)
	}
	e.Must(t, "rm", "of-vfs", "of-overlay")
}
