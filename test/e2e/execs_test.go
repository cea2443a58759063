package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestThousandExecs: of a thousand execs, also detached ones and ones that are
// killed, nothing is left: no descriptor, no cgroup, no goroutine.
func TestThousandExecs(t *testing.T) {
	engine.Must(t, "run", "-d", "--name", "thousand", "busybox", "sleep", "1000")
	defer engine.Must(t, "rm", "-f", "thousand")
	round := func(n int) {
		t.Helper()
		var clients sync.WaitGroup
		for i := range 4 {
			clients.Go(func() {
				for range n / 4 {
					args, want := []string{"exec", "thousand", "true"}, 0
					switch i {
					case 1:
						args = []string{"exec", "-d", "thousand", "sh", "-c", "true & exit 3"}
					case 2:
						args, want = []string{"exec", "-i", "thousand", "sh", "-c", "kill -9 $$"}, 137
					}
					if r := engine.Hezi(args...); r.Code != want {
						t.Errorf("%v: exit code %d: %s", args, r.Code, r.Err)
						return
					}
				}
			})
		}
		clients.Wait()
	}
	round(100) // what is made once is made
	before, goroutines := engine.Count(), countGoroutines(t, engine)
	round(1000)
	engine.NothingLeft(t, before, 4)
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		now := countGoroutines(t, engine)
		if now <= goroutines+4 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines before, %d after a thousand execs", goroutines, now)
			break
		}
	}
	if out := engine.Must(t, "execs", "ls", "-q", "thousand"); out != "" {
		t.Errorf("execs are left: %s", out)
	}
}

// countGoroutines are those of hezid, which runs in debug mode.
func countGoroutines(t *testing.T, e *harness.Engine) (n int) {
	t.Helper()
	path := strings.TrimPrefix(e.Host, "unix://")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	resp, err := client.Get("http://hezi/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil {
		_, err = fmt.Sscanf(string(b), "goroutine profile: total %d", &n)
	}
	if err != nil {
		t.Fatalf("%v: %.80s", err, b)
	}
	return n
}
