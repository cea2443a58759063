package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestFailedStart: a start that cannot be says why and leaves nothing behind: no
// process, no socket, no pid file.
func TestFailedStart(t *testing.T) {
	dir, err := os.MkdirTemp("", "hezi-start-") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run, sock := filepath.Join(dir, "run"), filepath.Join(dir, "hezi.sock")
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(engine.Dir, "data")
	readonly := filepath.Join(dir, "readonly")
	if err := os.Mkdir(readonly, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", readonly, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(readonly, syscall.MNT_DETACH)
	for _, x := range []struct {
		name string
		args []string
		says string
	}{
		{"data root of another", []string{"--data-root", busy, "--exec-root", run}, "is in use by another hezid (pid "},
		{"exec root of another", []string{"--data-root", dir + "/data", "--exec-root", filepath.Join(engine.Dir, "run")}, "another hezid (process "},
		{"socket of another", []string{"--data-root", dir + "/data", "--exec-root", run, "-H", engine.Host}, "another process listens there"},
		{"data root read-only", []string{"--data-root", readonly + "/data", "--exec-root", run}, "is mounted read-only (after an error of the disk?"},
		{"data root a file", []string{"--data-root", config, "--exec-root", run}, "not a directory"},
		{"fixed-cidr elsewhere", []string{"--data-root", dir + "/data", "--exec-root", run, "--bip", "10.211.0.1/24", "--fixed-cidr", "10.212.0.0/24"}, "not a part of"},
		{"a host's address", []string{"--data-root", dir + "/data", "--exec-root", run, "--fixed-cidr", "127.0.0.0/24"}, "overlaps a network of this host"},
	} {
		cmd := exec.Command(filepath.Join(harness.Bin(), "hezid"), append([]string{"--config-file", config, "-H", "unix://" + sock}, x.args...)...)
		timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		out, err := cmd.CombinedOutput()
		timer.Stop()
		if err == nil || !strings.Contains(string(out), x.says) {
			t.Errorf("%s: %v %s", x.name, err, out)
		}
		eventually(t, x.name+" leaves nothing", func() error { return nothingOf(dir) })
		for _, path := range []string{sock, filepath.Join(run, "hezi.pid")} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s: %s is left", x.name, path)
			}
		}
	}
}

// nothingOf is an error as long as a process was started with a folder.
func nothingOf(dir string) error {
	left, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range left {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), dir+"/") {
			return &os.PathError{Op: "still runs", Path: strings.ReplaceAll(string(b), "\x00", " "), Err: syscall.EBUSY}
		}
	}
	return nil
}

// TestWithoutLiveRestore: containers end with hezid, by their own signal, and
// then nothing holds them any more.
func TestWithoutLiveRestore(t *testing.T) {
	e := harness.Start(t, "--live-restore=false")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		keeper, holder := e.Keeper()
		for _, name := range []string{"one", "two", "six"} {
			e.Must(t, "run", "-d", "--name", name, "busybox", "sh", "-c", `trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done`)
			eventually(t, name, func() error {
				if !strings.Contains(e.Must(t, "logs", name), "up") {
					return errors.New("it is not up")
				}
				return nil
			})
		}
		e.Down()
		for _, pid := range []int{keeper, holder} {
			eventually(t, "the end of keeper and holder", func() error {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err == nil && !strings.Contains(string(stat), ") Z ") {
					return fmt.Errorf("round %d: process %d has outlived hezid", round, pid)
				}
				return nil
			})
		}
		if err := e.Up(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"one", "two", "six"} {
			if got := e.Must(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name); got != "exited 7" {
				t.Errorf("round %d: %s is %s, want exited 7", round, name, got)
			}
		}
		e.Must(t, "rm", "one", "two", "six")
	}
}
