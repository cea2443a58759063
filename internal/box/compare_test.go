package box

import (
	"os/exec"
	"slices"
	"testing"
	"time"
)

// BenchmarkCompare runs this package with and without a pool, an exec, and
// `crun run` of the same box in turn, and reports medians. crun makes no cgroup
// here: it knows no hybrid hierarchies.
func BenchmarkCompare(b *testing.B) {
	root := image(b)
	bare, err := NewRuntime(Options{Identity: "boxtest"})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	long := boxSpec(b, root, "sleep", "1000")
	box := start(b, long)
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
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m Mount) bool { return m.Type == MountCgroup })
		dir := bundleOf(b, spec, root, true)
		begin := time.Now()
		if out, err := exec.Command("crun", "--cgroup-manager=disabled", "run", "-b", dir, spec.ID).CombinedOutput(); err != nil {
			b.Fatalf("crun: %v: %s", err, out)
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
