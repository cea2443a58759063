package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hezi/test/harness"
)

// line is 63 letters; with its end, 64 bytes.
var line = strings.Repeat("abcdefghi", 7)

// output measures what becomes of the lines that a container writes: on their way to the
// client, and read from a log of 2 GB. It is asked for by name ("output", "data").
func output(e *harness.Engine, rounds int) error {
	dir, err := os.MkdirTemp("", "hezi-bench-lines-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "lines"), bytes.Repeat([]byte(line+"\n"), 1<<20), 0o644); err != nil {
		return err
	}
	engines, mount := byClients(e), "-v "+dir+":/data:ro"
	for _, c := range engines {
		defer c.shell("%s rm -f bench-json-file bench-local").run(nil)
		for _, driver := range []string{"json-file", "local"} { // 64 bytes are 140 in the file of json-file
			what := "%s run --name bench-" + driver + " --log-driver " + driver + " --log-opt max-size=4g " + mount +
				" busybox sh -c 'test -e /again && exec echo few; touch /again; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do cat /data/lines; done' >/dev/null"
			if err := c.shell(what).run(nil); err != nil {
				return err
			}
		}
	}
	time.Sleep(time.Minute + time.Second)
	for _, c := range engines { // the lines that --since finds
		if err := c.shell("{ %s start -a bench-json-file && %[1]s start -a bench-local; } >/dev/null").run(nil); err != nil {
			return err
		}
	}
	for _, w := range []struct {
		name, what string
		rounds     int
	}{
		{"64 MB of lines, cat, from run", "%s run --rm " + mount + " busybox cat /data/lines >/dev/null", max(5, rounds/3)},
		{"64 MB of lines, yes, from run", "%s run --rm busybox sh -c 'yes " + line + " | head -c 67108864' >/dev/null", max(3, rounds/6)},
		{"logs --tail 10 of 2 GB", "%s logs --tail 10 bench-json-file", rounds},
		{"logs --since 1m of 2 GB", "%s logs --since 1m bench-json-file", max(3, rounds/6)},
		{"logs --tail 10 of 2 GB, local", "%s logs --tail 10 bench-local", rounds},
		{"logs --since 1m of 2 GB, local", "%s logs --since 1m bench-local", max(3, rounds/6)},
		{"version", "%s version >/dev/null", rounds}, // what a client takes by itself
	} {
		if err := each(engines, w.name, w.rounds, "", w.what); err != nil {
			return err
		}
	}
	return nil
}
