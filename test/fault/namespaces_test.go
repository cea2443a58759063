package fault

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hezi/internal/keeper"
	"hezi/test/harness"
)

// TestUsersDuringUpgrade starts containers with users of their own, whose
// namespaces are made ahead, while the keeper replaces itself: none fails.
func TestUsersDuringUpgrade(t *testing.T) {
	e := harness.Start(t, "--userns-auto-range", "700000:655360")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	c, binary := keeper.NewClient(filepath.Join(e.Dir, "run")), filepath.Join(harness.Bin(), "hezi-keeper")
	ctx, cancel := context.WithCancel(t.Context())
	var upgraded atomic.Int32
	var upgrades sync.WaitGroup
	upgrades.Go(func() {
		for ; ctx.Err() == nil; upgraded.Add(1) {
			if err := c.Upgrade(context.WithoutCancel(ctx), binary); err != nil {
				t.Errorf("upgrade %d: %v", upgraded.Load(), err)
				return
			}
			time.Sleep(400 * time.Millisecond)
		}
	})
	defer upgrades.Wait()
	defer cancel()
	for i := 0; (i < 6 || upgraded.Load() < 3) && !t.Failed(); i++ {
		name := fmt.Sprint("box", i)
		e.Must(t, "run", "-d", "--userns", "auto", "--name", name, "-p", "127.0.0.1:18431:80", "busybox", "sh", "-c", "echo found >/tmp/x; exec httpd -f -h /tmp")
		if got := e.Must(t, "exec", name, "wget", "-qO-", "http://127.0.0.1/x"); got != "found" {
			t.Errorf("%q", got)
		}
		e.Must(t, "rm", "-f", name)
	}
}

// TestNamespacesOverKeeper: containers in namespaces of the host and of other
// containers keep them when the keeper, or it and its holder, are killed: execs
// join the same ones, what a first process leaves ends with it, and so does what an
// exec has left.
func TestNamespacesOverKeeper(t *testing.T) {
	for _, both := range []bool{false, true} {
		t.Run(fmt.Sprintf("holder=%v", both), func(t *testing.T) {
			e := harness.Start(t, "--userns-auto-range", "700000:65536")
			if err := e.LoadBusybox(); err != nil {
				t.Fatal(err)
			}
			e.Must(t, "run", "--rm", "busybox", "true")
			before := e.Count()
			mark := fmt.Sprintf("mark%d", time.Now().UnixNano())
			left := func(what string) string {
				return "(while :; do sleep 0.1; : " + mark + what + "; done) & "
			}
			main := "trap 'exit 4' TERM; while :; do sleep 0.1; done"
			e.Must(t, "run", "-d", "--name", "other", "--ipc", "shareable", "busybox", "sleep", "1000")
			e.Must(t, "run", "-d", "--name", "hosts", "--pid", "host", "--uts", "host", "--ipc", "host", "busybox", "sh", "-c", left("hosts")+main)
			e.Must(t, "run", "-d", "--name", "joined", "--pid", "container:other", "--ipc", "container:other", "busybox", "sh", "-c", left("joined")+main)
			e.Must(t, "run", "-d", "--name", "mapped", "--userns", "auto", "busybox", "sh", "-c", main)
			names := map[string]string{"hosts": "host", "joined": "other", "mapped": "mapped"}
			for name := range names {
				e.Must(t, "exec", "-d", name, "sh", "-c", left("exec"+name)+"exit 0")
				running(t, mark+"exec"+name, 1)
			}
			seen := func() string {
				var all []string
				for name := range names {
					all = append(all, name+": "+e.Must(t, "exec", name, "sh", "-c", "for n in pid ipc uts user mnt net; do readlink /proc/self/ns/$n; done; cat /proc/self/uid_map"))
				}
				slices.Sort(all)
				return strings.Join(all, "\n")
			}
			was := seen()
			host, err := os.Readlink("/proc/self/ns/pid")
			if err != nil || strings.Count(was, host) != 1 {
				t.Errorf("%v, %s, of the host: %s", err, was, host)
			}
			keeper, holder := e.Keeper()
			if both {
				killed(t, holder)
			}
			killed(t, keeper)
			if now := seen(); now != was {
				t.Errorf("before:\n%s\nafter:\n%s", was, now)
			}
			for _, name := range []string{"hosts", "joined"} {
				running(t, mark+name, 2)
				e.Must(t, "stop", "-t", "5", name)
				if got := e.Must(t, "inspect", "-f", "{{.State.ExitCode}}", name); got != "4" {
					t.Errorf("exit code of %s: %s", name, got)
				}
				running(t, mark+name, 0)
				running(t, mark+"exec"+name, 0)
			}
			e.Must(t, "rm", "-f", "hosts", "joined", "mapped", "other")
			running(t, mark, 0)
			e.NothingLeft(t, before, 4)
		})
	}
}
