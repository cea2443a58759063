package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hezi/test/harness"
)

// byClients are the engines, each as its own client.
func byClients(e *harness.Engine) []contender {
	hezi := filepath.Join(harness.Bin(), "hezi")
	engines := []contender{{name: "hezi", argv: []string{hezi}, env: e.Env()}}
	if host := os.Getenv("DOCKER_BENCH_HOST"); host != "" {
		engines = append(engines, contender{name: "docker", argv: []string{"docker"}, env: append(os.Environ(), "DOCKER_HOST="+host)})
	}
	return engines
}

// each measures what, in which %s is an engine's client, by all of them in turn.
func each(engines []contender, name string, rounds int, before, what string) error {
	w := work{name: name}
	for _, c := range engines {
		m := c.shell(what)
		if before != "" {
			m.before = c.shell(before).argv
		}
		w.contenders = append(w.contenders, m)
	}
	return measure(w, rounds)
}

// data measures what is done with what containers write: output, files copied up into
// volumes, commits, snapshots. It is asked for by name ("data", or "data/commit" for the
// works whose names contain that): it writes gigabytes.
func data(e *harness.Engine, rounds int, only string) error {
	wanted := func(name string) bool { return strings.Contains(name, only) }
	if only == "" {
		if err := output(e, rounds); err != nil {
			return err
		}
	}
	engines := byClients(e)
	files, err := manyFiles(10000)
	if err != nil {
		return err
	}
	for _, c := range engines {
		defer c.shell("%s rm -f bench-changed bench-programs; %[1]s volume rm -f bench-up; %[1]s rmi bench-files bench-commit").run(nil)
		if err := prepare(c, files); err != nil {
			return err
		}
	}
	for _, w := range []struct {
		name, before, what string
		rounds             int
	}{
		{"copy-up of 10,000 files", "%s volume rm -f bench-up; %[1]s volume trash --empty bench-up; true", "%s run --rm --network none -v bench-up:/files bench-files true", max(5, rounds/3)},
		{"commit of 1 GB of noise", "%s rmi bench-commit; sync", "%s commit bench-changed bench-commit", 5},
		{"commit of 1 GB of programs", "%s rmi bench-commit; sync", "%s commit bench-programs bench-commit", 5},
	} {
		if !wanted(w.name) {
			continue
		}
		if err := each(engines, w.name, w.rounds, w.before, w.what); err != nil {
			return err
		}
	}
	engines = engines[:1] // Docker has none
	if !wanted("snapshot of 1 GB") && !wanted("rollback of 1 GB") {
		return nil
	}
	if err := each(engines, "snapshot of 1 GB", rounds, "%s snapshots --rm s bench-changed; true", "%s snapshot bench-changed s"); err != nil {
		return err
	}
	if err := each(engines, "rollback of 1 GB", rounds, "", "%s rollback bench-changed s"); err != nil {
		return err
	}
	return savepoints(e, rounds)
}

// savepoints is what of a snapshot and a rollback is the engine's: the requests alone,
// over a connection that is open.
func savepoints(e *harness.Engine, rounds int) error {
	socket := strings.TrimPrefix(e.Host, "unix://")
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	call := func(method, path string) (float64, error) {
		req, err := http.NewRequest(method, "http://hezi/hezi/containers/bench-changed/"+path+"?name=r", nil)
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		resp, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode >= 300 {
			err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
		}
		return time.Since(begun).Seconds() * 1000, err
	}
	times := map[string][]float64{}
	for range rounds {
		for _, step := range [][2]string{{"POST", "snapshots"}, {"POST", "rollback"}, {"DELETE", "snapshots"}} {
			took, err := call(step[0], step[1])
			if err != nil {
				return err
			}
			times[step[0]+" "+step[1]] = append(times[step[0]+" "+step[1]], took)
		}
	}
	for _, name := range []string{"POST snapshots", "POST rollback"} {
		t := slices.Sorted(slices.Values(times[name]))
		fmt.Printf("%-34s %-22s %9.1f %9.1f %9.1f\n", name+" of 1 GB, the request", "hezi", t[0], t[len(t)/2], t[len(t)*9/10])
	}
	return nil
}

// shell is a command line of a shell, in which %s is the engine's client.
func (c contender) shell(format string) contender {
	return contender{name: c.name, argv: []string{"sh", "-c", fmt.Sprintf(format, c.argv[0])}, env: c.env}
}

func (c contender) run(stdin []byte) error {
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Env, cmd.Stdin = c.env, bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(c.argv, " "), err, out)
	}
	return nil
}

// prepare makes what the works need: an image with many files, a log of 2 GB, and a
// container that changed 1 GB.
func prepare(c contender, files []byte) error {
	if err := c.shell("%s import - bench-files").run(files); err != nil {
		return err
	}
	if err := c.shell("%s run --name bench-changed busybox dd if=/dev/urandom of=/changed bs=1M count=1024").run(nil); err != nil {
		return err
	}
	// What programs and libraries are like: gzip makes a third to a half of it.
	return c.shell("%s run --name bench-programs -v /usr/bin:/from:ro busybox sh -c 'while [ $(($(stat -c %%s /changed 2>/dev/null || echo 0) >> 20)) -lt 1024 ]; do cat /from/* >> /changed 2>/dev/null; done; truncate -s 1G /changed'").run(nil)
}

// manyFiles is a busybox root with small files in /files.
func manyFiles(n int) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	add := func(name string, mode int64, text []byte) {
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(text)), Typeflag: tar.TypeReg})
		}
		if err == nil {
			_, err = w.Write(text)
		}
	}
	add("bin/true", 0o755, program)
	for i := range n {
		add(fmt.Sprintf("files/%d/%d", i/100, i), 0o644, []byte(line))
	}
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}
