package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// smallDisk mounts an ext4 file system of its own.
func smallDisk(t *testing.T, megabytes int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hezi-disk-")
	if err != nil {
		t.Fatal(err)
	}
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, megabytes<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"/sbin/mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, mount}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c[0], err, out)
		}
	}
	t.Cleanup(func() { // after the engine's own
		for range 50 {
			if syscall.Unmount(mount, 0) == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return mount
}

// fill takes what is left of a disk.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return path
}

// A full disk ends a pull with words that say so, spoils nothing, and lets
// images and containers be removed.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, 200)
	e := harness.Start(t, "--data-root", filepath.Join(disk, "data"))
	registry := harness.Registry(t)
	small := harness.Push(t, registry, "small:1", harness.Noise(t, 1, 1, 10<<20))
	large := harness.Push(t, registry, "large:1", harness.Noise(t, 2, 1, 120<<20))
	e.Must(t, "pull", small)
	r := e.Hezi("pull", large)
	if r.Code == 0 || !strings.Contains(r.Err, "no space left on device: the disk of "+disk+"/data is full: remove images and containers") {
		t.Errorf("%d %s", r.Code, r.Err)
	}
	if out := e.Must(t, "system", "check", "--images"); !strings.Contains(out, "Checked 1 image, 4 blobs and 2 layers") || !strings.HasSuffix(out, "nothing is wrong.") {
		t.Errorf("after the pull: %s", out)
	}
	if out := e.Must(t, "run", "--rm", small, "echo", "works"); out != "works" {
		t.Errorf("%q", out)
	}
	e.Must(t, "create", "--name", "made", small)
	filler := fill(t, disk)
	r = e.Hezi("pull", large)
	if r.Code == 0 || !strings.Contains(r.Err, "no space left on device") {
		t.Errorf("with a disk that is full already: %d %s", r.Code, r.Err)
	}
	e.Must(t, "rm", "made")
	e.Must(t, "rmi", small)
	waitFor(t, func() bool {
		st, err := os.Stat(filepath.Join(disk, "data", "reserve"))
		return err == nil && st.Size() > 0
	})
	e.Kill() // and a start on a full disk works
	again := fill(t, disk)
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if out := e.Must(t, "images", "-q"); out != "" {
		t.Errorf("images are left: %s", out)
	}
	for _, f := range []string{filler, again} {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	e.Must(t, "pull", small)
	if out := e.Must(t, "system", "check", "--images"); !strings.HasSuffix(out, "nothing is wrong.") {
		t.Errorf("in the end: %s", out)
	}
}

// Beyond the budget the images go that were unused for longest.
func TestDiskBudget(t *testing.T) {
	e := harness.Start(t)
	registry := harness.Registry(t)
	for i, name := range []string{"a", "b", "c"} {
		e.Must(t, "pull", harness.Push(t, registry, name+":1", harness.Noise(t, byte(i), 1, 10<<20)))
		time.Sleep(1100 * time.Millisecond) // uses are known by the second
	}
	e.Must(t, "create", "--name", "holds", registry+"/a:1")
	e.Must(t, "create", "--name", "used", registry+"/b:1")
	e.Must(t, "rm", "used") // after c was pulled
	config := filepath.Join(e.Dir, "daemon.json")
	if err := os.WriteFile(config, []byte(`{"disk-budget": "60MB", "disk-budget-low": "100%"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	since := strconv.FormatInt(time.Now().Unix(), 10)
	if err := syscall.Kill(e.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	// All three are fresh: they stay, and it is said.
	var own struct {
		Hezi struct {
			Budget *struct {
				Limit, LowWater, Used int64
				Over                  *time.Time
			}
		}
	}
	ask := func() {
		t.Helper()
		own.Hezi.Budget = nil
		df(t, e, &own)
	}
	waitFor(t, func() bool { ask(); return own.Hezi.Budget != nil && own.Hezi.Budget.Over != nil })
	if b := own.Hezi.Budget; b.Limit != 60e6 || b.LowWater != 60e6 || b.Used < 65e6 {
		t.Errorf("%+v %s", b, e.Must(t, "system", "df", "-v"))
	}
	if out := e.Must(t, "system", "df"); !strings.Contains(out, "The budget is 60MB without volumes, ") || !strings.Contains(out, "It is exceeded, and nothing more can be removed") {
		t.Errorf("%s", out)
	}
	// An hour later (the database is told so) the one that was used last stays.
	e.Down()
	if err := exec.Command("go", "run", "./testdata/age", filepath.Join(e.Dir, "data", "images.db"), "2h").Run(); err != nil {
		t.Fatal(err)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(strings.Fields(e.Must(t, "images", "-q"))) == 2 })
	if out := e.Must(t, "images", "--format", "{{.Repository}}"); strings.Contains(out, "/c") {
		t.Errorf("left:\n%s", out)
	}
	// The images are gone before what they had.
	waitFor(t, func() bool {
		ask()
		return own.Hezi.Budget.Used <= own.Hezi.Budget.Limit && own.Hezi.Budget.Over == nil
	})
	if out := e.Must(t, "events", "--since", since, "--until", strconv.FormatInt(time.Now().Unix()+1, 10), "--filter", "event=untag"); !strings.Contains(out, "reason=disk budget: ") {
		t.Errorf("events: %s", out)
	}
	log, err := os.ReadFile(filepath.Join(e.Dir, "hezid.log"))
	if err != nil || !strings.Contains(string(log), "an image is removed for the disk budget") {
		t.Error("the log does not say what was removed")
	}
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("it did not come about")
}

// df asks for /system/df.
func df(t *testing.T, e *harness.Engine, v any) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", strings.TrimPrefix(e.Host, "unix://"))
	}, DisableKeepAlives: true}}
	resp, err := c.Get("http://hezi/v1.52/system/df?verbose=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatal(err)
	}
}

// system df is what du counts, to the byte.
func TestDFIsDu(t *testing.T) {
	e := harness.Start(t)
	registry := harness.Registry(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	one, two := harness.Noise(t, 1, 1, 3<<20), harness.Noise(t, 2, 1, 5<<20)
	e.Must(t, "pull", harness.Push(t, registry, "one:1", one))
	e.Must(t, "pull", harness.Push(t, registry, "two:1", two))
	e.Must(t, "run", "-d", "--name", "runs", "-v", "vol:/v", "busybox", "sh", "-c", "head -c 100000 /dev/urandom > /v/f; head -c 3000000 /dev/zero > /big; seq 1 20000; echo done > /d; exec sleep 1000")
	e.Must(t, "run", "--name", "stopped", registry+"/one:1", "sh", "-c", "cp /noise-0 /copy; rm /bin/sh")
	e.Must(t, "run", "-d", "--name", "rm", "--rm", "busybox", "sleep", "1000")
	waitFor(t, func() bool { return e.Hezi("exec", "runs", "cat", "/d").Code == 0 })
	e.Must(t, "system", "check")
	var got struct {
		ImageUsage, ContainerUsage, VolumeUsage struct {
			ActiveCount, TotalCount, TotalSize, Reclaimable int64
			Items                                           []struct {
				RepoTags         []string
				Size, SharedSize int64
				Containers       int64
				UsageData        struct{ Size, RefCount int64 }
			}
		}
		Hezi struct{ Total int64 }
	}
	data := filepath.Join(e.Dir, "data")
	var du string
	for range 5 { // hezid may write into its databases meanwhile
		df(t, e, &got)
		out, err := exec.Command("du", "-s", "-x", "--block-size=1", data).Output()
		if err != nil {
			t.Fatal(err)
		}
		if du = strings.Fields(string(out))[0]; du == strconv.FormatInt(got.Hezi.Total, 10) {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if du != strconv.FormatInt(got.Hezi.Total, 10) {
		list, _ := exec.Command("du", "-x", "--block-size=1", data).Output()
		t.Errorf("df says %d, du %s: %+v\n%s", got.Hezi.Total, du, got, list)
	}
	i, c, v := got.ImageUsage, got.ContainerUsage, got.VolumeUsage
	if i.TotalCount != 3 || i.ActiveCount != 2 || c.TotalCount != 3 || c.ActiveCount != 2 || v.TotalCount != 1 || v.ActiveCount != 1 {
		t.Errorf("%+v", got)
	}
	if c.TotalSize < 6_000_000 || c.Reclaimable < 3<<20 || c.Reclaimable > 4<<20 || v.TotalSize < 100_000 || v.Reclaimable != 0 {
		t.Errorf("containers %+v, volumes %+v", c, v)
	}
	for _, img := range i.Items { // busybox is in all three
		if unique := img.Size - img.SharedSize; img.SharedSize < 500_000 || strings.HasSuffix(img.RepoTags[0], "two:1") && (unique < 10<<20 || unique > 10<<20+100_000) {
			t.Errorf("%+v", img)
		}
	}
	if i.Reclaimable < 10<<20 || i.Reclaimable > 11<<20 { // what only "two" has
		t.Errorf("reclaimable %d", i.Reclaimable)
	}
	docker := e.Docker("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}")
	if out, err := docker.CombinedOutput(); err != nil || string(out) != "Images 3 2\nContainers 3 2\nLocal Volumes 1 1\nBuild Cache 0 0\n" {
		t.Errorf("%v %s", err, out)
	}
}

// TestDiskThatStops: the file system of the data root takes nothing more, after an error.
func TestDiskThatStops(t *testing.T) {
	mount := smallDisk(t, 256)
	source, err := exec.Command("findmnt", "-no", "SOURCE", mount).Output()
	if err != nil {
		t.Fatal(err)
	}
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(string(source))), "trigger_fs_error")
	if _, err := os.Stat(trigger); err != nil {
		t.Skip("this kernel makes no errors:", err)
	}
	var e *harness.Engine
	t.Cleanup(func() { // an engine that can store nothing leaves its network for the next
		if e != nil {
			e.DropNetwork(filepath.Join(mount, "data"))
		}
	})
	e = harness.Start(t, "--data-root", filepath.Join(mount, "data"))
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "run", "-d", "--name", "lasting", "busybox", "sh", "-c", "echo said; exec sleep 1000")
	waitFor(t, func() bool { return strings.TrimSpace(e.Hezi("logs", "lasting").Out) == "said" })
	if out, err := exec.Command("mount", "-o", "remount,errors=remount-ro", mount).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(trigger, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	const why = "is mounted read-only (after an error of the disk? `dmesg` tells): mount it writable"
	for _, args := range [][]string{{"create", "busybox", "true"}, {"volume", "create"}, {"commit", "lasting", "new"}} {
		if r := e.Hezi(args...); r.Code == 0 || !strings.Contains(r.Err, why) {
			t.Errorf("%v: %d %s", args, r.Code, r.Err)
		}
	}
	if got := e.Must(t, "exec", "lasting", "echo", "still"); got != "still" {
		t.Errorf("exec: %q", got)
	}
	if got := e.Must(t, "logs", "lasting"); got != "said" {
		t.Errorf("logs: %q", got)
	}
	if r := e.Hezi("kill", "lasting"); r.Code == 0 || !strings.Contains(r.Err, "container lasting has ended, but that cannot be stored") || !strings.Contains(r.Err, why) {
		t.Errorf("kill: %d %s", r.Code, r.Err)
	}
}
