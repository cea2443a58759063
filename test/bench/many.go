package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"hezi/test/harness"
)

// manyImages lists 1,000 images. To give them to an engine takes minutes: it is
// done only when the work is asked for by its name.
func manyImages(e *harness.Engine, rounds int) error {
	dir, err := os.MkdirTemp("", "hezi-bench-many-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "many.tar")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := harness.ManyImages(f, 1000); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	hezi := filepath.Join(harness.Bin(), "hezi")
	w := work{"images, 1,000 of them", []contender{
		{name: "hezi", argv: []string{hezi, "images"}, env: e.Env()},
		{name: "docker cli, our daemon", argv: []string{"docker", "images"}, env: e.Env()},
	}}
	engines := map[string][]string{hezi: e.Env()}
	if host := os.Getenv("DOCKER_BENCH_HOST"); host != "" {
		env := append(os.Environ(), "DOCKER_HOST="+host)
		engines["docker"] = env
		w.contenders = append(w.contenders, contender{name: "docker", argv: []string{"docker", "images"}, env: env})
	}
	for program, env := range engines {
		load := exec.Command(program, "load", "-q", "-i", path)
		load.Env = env
		if out, err := load.CombinedOutput(); err != nil {
			return fmt.Errorf("%s load: %w: %s", program, err, out)
		}
	}
	return measure(w, rounds)
}
