package cgroup

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAddCost measures, for the package doc and docs/performance.md, what it
// costs to put a process into its cgroup: by Add, and by the birth from a
// helper that is inside already. HEZI_COST=1 takes more samples.
func TestAddCost(t *testing.T) {
	rounds := 10
	if os.Getenv("HEZI_COST") != "" {
		rounds = 200
	}
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		var making, adding, apart, born []time.Duration
		for i := range rounds {
			p := spawn(t, "sleep")
			from := time.Now()
			one, err := d.Create(t.Context(), "", fmt.Sprintf("cost-%d", i), Resources{}, Devices{})
			if err != nil {
				t.Fatal(err)
			}
			making = append(making, time.Since(from))
			time.Sleep(30 * time.Millisecond) // or the kernel still holds the lock from before
			from = time.Now()
			if err := one.Add(p.Process.Pid); err != nil {
				t.Fatal(err)
			}
			adding = append(adding, time.Since(from))
			_ = p.Process.Kill()
			_ = p.Wait()
			if err := one.Remove(); err != nil {
				t.Fatal(err)
			}
			if i < 10 { // a group of one write after another, with a pause between
				p := spawn(t, "sleep")
				var sum time.Duration
				for _, dir := range g.dirs() {
					time.Sleep(30 * time.Millisecond)
					from := time.Now()
					if err := write(dir, "cgroup.procs", fmt.Sprint(p.Process.Pid)); err != nil {
						t.Fatal(err)
					}
					sum += time.Since(from)
				}
				apart = append(apart, sum)
				_ = p.Process.Kill()
				_ = p.Wait()
			}
		}
		// The helper starts a program: vfork and exec, of which the cgroup's
		// share is nothing.
		helper := inside(t, g, "births")
		helper.start(t)
		for range rounds {
			time.Sleep(30 * time.Millisecond)
			if _, err := helper.in.Write([]byte("\n")); err != nil {
				t.Fatal(err)
			}
			line, err := helper.out.ReadString('\n')
			took, parse := time.ParseDuration(strings.TrimSpace(line))
			if err != nil || parse != nil {
				t.Fatal(err, parse)
			}
			born = append(born, took)
		}
		t.Logf("making %s; Add %s; the writes apart, in sum %s; a process born inside (vfork and exec) %s",
			quantiles(making), quantiles(adding), quantiles(apart), quantiles(born))
	})
}

func quantiles(list []time.Duration) string {
	slices.Sort(list)
	return fmt.Sprintf("p50 %v p90 %v", list[len(list)/2].Round(time.Microsecond), list[len(list)*9/10].Round(time.Microsecond))
}

// birth times one child.
func birth() (time.Duration, error) {
	from := time.Now()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"birth"}, &syscall.ProcAttr{Env: []string{helperVariable + "=end"}, Files: []uintptr{0, 1, 2}})
	took := time.Since(from)
	if err != nil {
		return 0, err
	}
	_, err = syscall.Wait4(pid, nil, 0, nil)
	return took, err
}
