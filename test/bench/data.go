package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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
// volumes, commits, snapshots. It is asked for by name ("data"): it writes gigabytes.
func data(e *harness.Engine, rounds int) error {
	if err := output(e, rounds); err != nil {
		return err
	}
	engines := byClients(e)
	files, err := manyFiles(10000)
	if err != nil {
		return err
	}
	for _, c := range engines {
		if err := prepare(c, files); err != nil {
			return err
		}
		defer c.shell("%s rm -f bench-changed; %[1]s volume rm -f bench-up; %[1]s rmi bench-files bench-commit").run(nil)
	}
	for _, w := range []struct {
		name, before, what string
		rounds             int
	}{
		{"copy-up of 10,000 files", "%s volume rm -f bench-up; %[1]s volume trash --empty bench-up; true", "%s run --rm --network none -v bench-up:/files bench-files true", max(5, rounds/3)},
		{"commit of 1 GB", "%s rmi bench-commit", "%s commit bench-changed bench-commit", 3},
	} {
		if err := each(engines, w.name, w.rounds, w.before, w.what); err != nil {
			return err
		}
	}
	engines = engines[:1] // Docker has none
	if err := each(engines, "snapshot of 1 GB", rounds, "%s snapshots --rm s bench-changed; true", "%s snapshot bench-changed s"); err != nil {
		return err
	}
	return each(engines, "rollback of 1 GB", rounds, "", "%s rollback bench-changed s")
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

// prepare makes what the works need: an image with many files, and a container that
// changed 1 GB.
func prepare(c contender, files []byte) error {
	if err := c.shell("%s import - bench-files").run(files); err != nil {
		return err
	}
	return c.shell("%s run --name bench-changed busybox dd if=/dev/urandom of=/changed bs=1M count=1024").run(nil)
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
