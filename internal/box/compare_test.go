package box

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkCompare runs this package with and without a pool, an exec, and
// `crun run` of the same box in turn, and reports medians. crun knows no
// hybrid cgroup hierarchies, so it runs where the unified one is not mounted.
func BenchmarkCompare(b *testing.B) {
	root := image(b)
	bare, err := NewRuntime(Options{Identity: "boxtest"})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	long := boxSpec(b, root, "sleep", "1000")
	box := start(b, long)
	crun, ended := make(chan *exec.Cmd), make(chan error)
	defer close(crun)
	go withoutUnified(crun, ended)
	times := map[string][]time.Duration{}
	ours := func(name string, r *Runtime) {
		spec := boxSpec(b, root, "true")
		spec.Namespaces.Net.Mode = NamespaceHost
		begin := time.Now()
		p, err := r.Start(b.Context(), spec, Stdio{})
		if err != nil {
			b.Fatal(err)
		}
		times[name+"-start"] = append(times[name+"-start"], time.Since(begin))
		await(b, p)
		times[name] = append(times[name], time.Since(begin))
		removeGroup(b, p)
	}
	for b.Loop() {
		time.Sleep(20 * time.Millisecond) // the pool refills, as it does between a user's starts
		ours("pool", testRuntime)
		time.Sleep(20 * time.Millisecond)
		ours("bare", bare)
		spec := boxSpec(b, root, "true")
		dir := bundleOf(b, spec, root, true)
		begin := time.Now()
		crun <- exec.Command("crun", "run", "-b", dir, spec.ID)
		if err := <-ended; err != nil {
			b.Fatalf("crun: %v", err)
		}
		times["crun"] = append(times["crun"], time.Since(begin))
		p := long.Process
		p.Args = []string{"true"}
		begin = time.Now()
		e, err := testRuntime.Exec(b.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
		if err != nil {
			b.Fatal(err)
		}
		await(b, e)
		times["exec"] = append(times["exec"], time.Since(begin))
	}
	for name, list := range times {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds()), name+"-p50-µs")
	}
}

// withoutUnified runs commands from a thread with mounts of its own.
func withoutUnified(commands <-chan *exec.Cmd, ended chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	_ = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH) // absent on pure v1 and v2
	for command := range commands {
		if err != nil {
			ended <- err
			continue
		}
		out, err := command.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		ended <- err
	}
}
