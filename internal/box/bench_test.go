package box

import (
	"testing"
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
