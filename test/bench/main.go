// Command bench compares hezi with the engines that are installed, side by
// side: every round runs each contender once, in turn, so that a noisy machine
// is noisy for all of them. It prints medians and ratios, never a verdict.
//
// docker is measured when a daemon answers at DOCKER_BENCH_HOST (such as
// unix:///run/docker.sock) and has the image busybox; podman when it has the
// image localhost/busybox or busybox; crun and runc run a bundle made here.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hezi/test/harness"
)

// contender is one way to do a work.
type contender struct {
	name string
	argv []string
	env  []string
	// before is run ahead of each measured run, and may fail.
	before []string
}

type work struct {
	name       string
	contenders []contender
}

func main() {
	rounds := flag.Int("n", 30, "rounds")
	only := flag.String("work", "", "measure only the work whose name contains this")
	flag.Parse()
	if err := hideUnified(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err := run(*rounds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, only string) (err error) {
	bin, err := install()
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	e, err := harness.New()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := e.Close(); err == nil {
			err = cerr
		}
	}()
	if err := e.LoadBusybox(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hezi-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bundle, err := makeBundle(dir)
	if err != nil {
		return err
	}
	works, cleanup, err := works(e, bundle)
	defer cleanup()
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d rounds, interleaved; milliseconds of the whole process\n\n", machine(), rounds)
	fmt.Printf("%-34s %-22s %9s %9s %9s   %s\n", "WORK", "BY", "MIN", "MEDIAN", "P90", "HEZI / THIS")
	for _, w := range works {
		if only == "" || strings.Contains(w.name, only) {
			if err := measure(w, rounds); err != nil {
				return err
			}
		}
	}
	wanted := func(name string) bool {
		return only == "" || strings.Contains(name, only) || strings.Contains(only, name)
	}
	if wanted("look-up of a name") {
		if err := lookups(e, rounds); err != nil {
			return err
		}
	}
	if wanted("throughput and connections") {
		if err := traffic(e, max(1, rounds/6)); err != nil {
			return err
		}
	}
	if strings.Contains("start on a network of 1,000", only) && only != "" {
		if err := crowd(e, rounds); err != nil {
			return err
		}
	}
	if err := images(e, max(3, rounds/6), wanted); err != nil {
		return err
	}
	if strings.Contains("images, 1,000 of them", only) && only != "" {
		if err := manyImages(e, rounds); err != nil {
			return err
		}
	}
	if only == "output" {
		if err := output(e, rounds); err != nil {
			return err
		}
	}
	if part, ok := strings.CutPrefix(only, "data"); ok {
		if err := data(e, rounds, strings.TrimPrefix(part, "/")); err != nil {
			return err
		}
	}
	if only == "" {
		memory(e)
	}
	return nil
}

// install copies the programs under test, and has the copies measured: a program
// whose pages the linker has just written, one by one, starts 5 to 20 % slower,
// and the other engines' were installed by copying.
func install() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "hezi-bench-bin-"); err != nil {
		return "", err
	}
	args := []string{"-t", dir}
	for _, name := range []string{"hezi", "hezid", "hezi-keeper"} {
		args = append(args, filepath.Join(harness.Bin(), name))
	}
	if out, err := exec.Command("install", args...).CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("install %s: %w: %s", harness.Bin(), err, out)
	}
	return dir, os.Setenv("HEZI_TEST_BIN", dir)
}

// peak is the most memory a process had resident, as the kernel says it.
func peak(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "?"
}

func works(e *harness.Engine, bundle string) ([]work, func(), error) {
	hezi := filepath.Join(harness.Bin(), "hezi")
	env := e.Env()
	h := func(args ...string) contender {
		return contender{name: "hezi", argv: append([]string{hezi}, args...), env: env}
	}
	via := func(args ...string) contender {
		return contender{name: "docker cli, our daemon", argv: append([]string{"docker"}, args...), env: env}
	}
	if r := e.Hezi("run", "-d", "--name", "bench", "busybox", "sleep", "100000"); r.Code != 0 {
		return nil, func() {}, fmt.Errorf("hezi run: %s", r.Err)
	}
	cleanup := func() { e.Hezi("rm", "-f", "bench") }
	runs := work{"run --rm busybox true", []contender{h("run", "--rm", "busybox", "true"), via("run", "--rm", "busybox", "true")}}
	none := work{"run --rm --network none", []contender{h("run", "--rm", "--network", "none", "busybox", "true")}}
	port := work{"run --rm, without and with -p 80", []contender{h("run", "--rm", "busybox", "true"), h("run", "--rm", "-p", "80", "busybox", "true")}}
	port.contenders[1].name = "hezi, with a port"
	execs := work{"exec true", []contender{h("exec", "bench", "true"), via("exec", "bench", "true")}}
	version := work{"version", []contender{h("version"), via("version")}}

	if host := os.Getenv("DOCKER_BENCH_HOST"); host != "" {
		denv := append(os.Environ(), "DOCKER_HOST="+host)
		d := func(args ...string) contender {
			return contender{name: "docker", argv: append([]string{"docker"}, args...), env: denv}
		}
		start := exec.Command("docker", "run", "-d", "--name", "hezi-bench", "busybox", "sleep", "100000")
		start.Env = denv
		if out, err := start.CombinedOutput(); err != nil {
			return nil, cleanup, fmt.Errorf("docker at %s: %w: %s", host, err, out)
		}
		ours := cleanup
		cleanup = func() {
			ours()
			rm := exec.Command("docker", "rm", "-f", "hezi-bench")
			rm.Env = denv
			_ = rm.Run()
		}
		runs.contenders = append(runs.contenders, d("run", "--rm", "busybox", "true"))
		none.contenders = append(none.contenders, d("run", "--rm", "--network", "none", "busybox", "true"))
		execs.contenders = append(execs.contenders, d("exec", "hezi-bench", "true"))
		version.contenders = append(version.contenders, d("version"))
	}
	if exec.Command("podman", "image", "exists", "busybox").Run() == nil {
		runs.contenders = append(runs.contenders, contender{name: "podman", argv: []string{"podman", "run", "--rm", "busybox", "true"}})
	}
	for _, runtime := range []string{"crun", "runc"} {
		if _, err := exec.LookPath(runtime); err == nil {
			c := contender{name: runtime + " run (no network)", argv: []string{runtime, "run", "-b", bundle, "hezi-bench-" + runtime}}
			runs.contenders = append(runs.contenders, c)
			none.contenders = append(none.contenders, c)
		}
	}
	return []work{runs, none, port, execs, version}, cleanup, nil
}

// makeBundle is a busybox root and runc's default config with `true`.
func makeBundle(dir string) (string, error) {
	root := filepath.Join(dir, "rootfs")
	for _, c := range [][]string{
		{"mkdir", "-p", root + "/bin", root + "/proc", root + "/sys", root + "/dev"},
		{"cp", "/bin/busybox", root + "/bin/true"},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", c[0], err, out)
		}
	}
	spec := exec.Command("runc", "spec")
	spec.Dir = dir
	if _, err := exec.LookPath("runc"); err != nil {
		return dir, nil
	}
	if out, err := spec.CombinedOutput(); err != nil {
		return "", fmt.Errorf("runc spec: %w: %s", err, out)
	}
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s := strings.Replace(string(b), `"terminal": true`, `"terminal": false`, 1)
	s = strings.Replace(s, `"sh"`, `"/bin/true"`, 1)
	// A limit higher than the caller's own needs CAP_SYS_RESOURCE.
	s = strings.Replace(s, `"hard": 1024`, `"hard": 1000`, 1)
	s = strings.Replace(s, `"soft": 1024`, `"soft": 1000`, 1)
	return dir, os.WriteFile(path, []byte(s), 0o644)
}

func measure(w work, rounds int) error {
	times := make([][]float64, len(w.contenders))
	dead := make([]string, len(w.contenders))
	for round := range rounds + 2 { // two to warm up
		for i, c := range w.contenders {
			if dead[i] != "" {
				continue
			}
			if c.before != nil {
				before := exec.Command(c.before[0], c.before[1:]...)
				before.Env = c.env
				_ = before.Run()
			}
			cmd := exec.Command(c.argv[0], c.argv[1:]...)
			cmd.Env = c.env
			begun := time.Now()
			out, err := cmd.CombinedOutput()
			took := time.Since(begun).Seconds() * 1000
			if err != nil {
				if i == 0 {
					return fmt.Errorf("%s: %w: %s", strings.Join(c.argv, " "), err, out)
				}
				dead[i] = strings.TrimSpace(string(out))
				continue
			}
			if round >= 2 {
				times[i] = append(times[i], took)
			}
		}
	}
	var ours float64
	for i, c := range w.contenders {
		if dead[i] != "" {
			fmt.Printf("%-34s %-22s does not run here: %.60s\n", w.name, c.name, dead[i])
			continue
		}
		t := times[i]
		slices.Sort(t)
		median := t[len(t)/2]
		if i == 0 {
			ours = median
		}
		fmt.Printf("%-34s %-22s %9.1f %9.1f %9.1f   %.2f\n", w.name, c.name, t[0], median, t[len(t)*9/10], ours/median)
	}
	return nil
}

// memory prints the proportional set size of the engine's processes, idle and
// with fifty containers.
func memory(e *harness.Engine) {
	time.Sleep(2 * time.Second)
	keeper, holder := e.Keeper()
	fmt.Printf("\nMemory (PSS, MB) with one container: hezid %.1f, keeper %.1f, holder %.1f\n", pss(e.PID()), pss(keeper), pss(holder))
	before := pss(e.PID()) + pss(keeper) + pss(holder)
	const n = 50
	for i := range n {
		e.Hezi("run", "-d", "--name", fmt.Sprint("idle", i), "busybox", "sleep", "100000")
	}
	time.Sleep(3 * time.Second)
	after := pss(e.PID()) + pss(keeper) + pss(holder)
	fmt.Printf("with %d more: %.1f in all, %.2f for each container\n", n, after, (after-before)/n)
	for i := range n {
		e.Hezi("rm", "-f", fmt.Sprint("idle", i))
	}
}

func pss(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1024
		}
	}
	return 0
}

func machine() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	return fmt.Sprintf("Linux %s, %d processors", strings.TrimSpace(string(release)), strings.Count(string(cpus), "processor\t"))
}
