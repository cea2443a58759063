package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestOOMKillDisable: a process that finds no memory waits for it and is not
// killed; the event says so, and with more memory it goes on. It takes memory of its
// own: a write to a tmpfs fails instead of waiting.
func TestOOMKillDisable(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.oom_control"); err != nil {
		t.Skip("without the memory controller of cgroup v1 no kernel lets processes wait for memory: ", err)
	}
	const name = "limits-patient"
	engine.Must(t, "run", "-d", "--name", name, "-m", "16m", "--memory-swap", "16m", "--oom-kill-disable", "busybox", "sh", "-c",
		`awk 'BEGIN { s = "x"; while (length(s) < 16777216) s = s s }'; touch /done; exec sleep 1000`)
	defer engine.Must(t, "rm", "-f", name)
	done := "/proc/" + engine.Must(t, "inspect", "-f", "{{.State.Pid}}", name) + "/root/done"
	events := []string{"events", "--since", "10m", "--until", "0s", "--filter", "container=" + name, "--filter", "event=oom", "--format", "{{.Action}}"}
	await(t, engine, func(got string) bool { return strings.HasPrefix(got, "oom") }, events...) // the kernel may tell it again
	time.Sleep(500 * time.Millisecond)
	if got := engine.Must(t, "inspect", "-f", "{{.State.OOMKilled}} {{.State.Status}}", name); got != "false running" {
		t.Errorf("the container is %s", got)
	}
	if _, err := os.Stat(done); err == nil {
		t.Fatal("the program did not wait for memory")
	}
	engine.Must(t, "update", "-m", "256m", "--memory-swap", "256m", name)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(done); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("with more memory the program does not go on")
		}
	}
	if got := engine.Must(t, "inspect", "-f", "{{.State.OOMKilled}}", name); got != "false" {
		t.Errorf("something was killed")
	}
}
