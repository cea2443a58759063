package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"hezi/test/harness"
)

// crowd measures a start on a network with nobody else, with 1,000 running
// containers, and again with nobody. It takes minutes: it is done only when the
// work is asked for by its name.
func crowd(e *harness.Engine, rounds int) error {
	if r := e.Hezi("network", "create", "--subnet", "10.213.0.0/20", "bench-crowd"); r.Code != 0 {
		return errors.New(r.Err)
	}
	starts := func(others string) error {
		w := work{"start on a network of " + others, nil}
		for _, args := range [][]string{
			{"run", "--rm", "--network", "bench-crowd", "busybox", "true"},
			{"run", "--rm", "--network", "bench-crowd", "-p", "80", "busybox", "true"},
		} {
			w.contenders = append(w.contenders, contender{name: "hezi " + args[4], argv: append([]string{filepath.Join(harness.Bin(), "hezi")}, args...), env: e.Env()})
		}
		return measure(w, rounds)
	}
	if err := starts("none"); err != nil {
		return err
	}
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("bench-crowd", i))
		if r := e.Hezi("run", "-d", "--name", names[i], "--network", "bench-crowd", "-p", "80", "busybox", "sleep", "100000"); r.Code != 0 {
			return errors.New(r.Err)
		}
	}
	if err := starts("1,000"); err != nil {
		return err
	}
	if r := e.Hezi(append([]string{"rm", "-f"}, names...)...); r.Code != 0 {
		return errors.New(r.Err)
	}
	if err := starts("none again"); err != nil {
		return err
	}
	if r := e.Hezi("network", "rm", "bench-crowd"); r.Code != 0 {
		return errors.New(r.Err)
	}
	return nil
}
