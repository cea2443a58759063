package box

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"hezi/internal/box/cgroup"
)

// BenchmarkStart is one start, the program's end and its reaping.
func BenchmarkStart(b *testing.B) {
	root := image(b)
	for name, hostNet := range map[string]bool{"newnet": false, "hostnet": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				spec := boxSpec(b, root, "true")
				if hostNet {
					spec.Namespaces.Net.Mode = NamespaceHost
				}
				p, err := testRuntime.Start(b.Context(), spec, Stdio{})
				if err != nil {
					b.Fatal(err)
				}
				await(b, p)
				b.StopTimer()
				removeGroup(b, p)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkExec is one exec in a box that runs.
func BenchmarkExec(b *testing.B) {
	spec := boxSpec(b, image(b), "sleep", "1000")
	box := start(b, spec)
	p := spec.Process
	p.Args = []string{"true"}
	for b.Loop() {
		e, err := testRuntime.Exec(b.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
		if err != nil {
			b.Fatal(err)
		}
		await(b, e)
	}
}

// BenchmarkExecGroup compares execs with a cgroup of their own and without, side
// by side, with pauses in which standbys are made.
func BenchmarkExecGroup(b *testing.B) {
	root := image(b)
	kinds := []string{"none/op", "own/op"}
	boxes, specs, times := [2]*Proc{}, [2]*Spec{}, [2][]time.Duration{}
	for i := range boxes {
		specs[i] = boxSpec(b, root, "sleep", "1000")
		boxes[i] = start(b, specs[i])
	}
	n := 0
	for b.Loop() {
		for i, box := range boxes {
			time.Sleep(150 * time.Millisecond)
			p := specs[i].Process
			p.Args = []string{"true"}
			if n++; i == 1 {
				p.Group = cgroup.ExecName(strconv.Itoa(n))
			}
			begun := time.Now()
			e, err := testRuntime.Exec(b.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
			if err != nil {
				b.Fatal(err)
			}
			await(b, e)
			times[i] = append(times[i], time.Since(begun))
			if i == 1 {
				cgroup.RemoveInner(cgroup.Inner(box.CgroupPaths, p.Group))
			}
		}
	}
	for i, kind := range kinds {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2].Microseconds()), kind)
	}
}
