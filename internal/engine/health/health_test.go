package health

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

func TestOf(t *testing.T) {
	for test, want := range map[string]string{
		"CMD|true": "[true]", "CMD-SHELL|a b": "[/bin/sh -c a b]", "HTTP|8080": "http://localhost:8080/", "HTTP|:80/a?b#c": "http://localhost:80/a?b",
		"HTTP|https://127.0.0.1/x": "https://127.0.0.1:443/x", "HTTP|http://[::1]:1/": "http://[::1]:1/", "TCP|5432": "localhost:5432", "TCP|10.0.0.1:80": "10.0.0.1:80",
		"TCP|[::1]:80": "[::1]:80", "NONE|": "", "": "",
	} {
		c := &container.Config{Healthcheck: &container.HealthConfig{}}
		if test != "" {
			c.Healthcheck.Test = strings.Split(test, "|")
		}
		if err := Validate(c, false); err != nil {
			t.Errorf("%s: %v", test, err)
		}
		k := Of(c)
		got := ""
		if k != nil {
			if got = k.Target; got == "" {
				got = fmt.Sprint(k.Command)
			}
			if k.Interval != 30*time.Second || k.Timeout != 30*time.Second || k.Retries != 3 {
				t.Errorf("%s: defaults %+v", test, k)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", test, got, want)
		}
	}
	for _, test := range []string{"CMD", "CMD-SHELL|", "WHAT|x", "HTTP|ftp://localhost/", "HTTP|http://example.org/", "HTTP|0", "HTTP|http://u:p@localhost/", "HTTP|1|2", "TCP|x", "TCP|70000", "TCP|example.org:1", "TCP"} {
		c := &container.Config{Healthcheck: &container.HealthConfig{Test: strings.Split(test, "|")}}
		if err := Validate(c, false); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", test, err)
		}
	}
	for _, c := range []container.Config{
		{Healthcheck: &container.HealthConfig{Interval: time.Microsecond}}, {Healthcheck: &container.HealthConfig{Retries: -1}},
		{Labels: map[string]string{ActionLabel: "reboot"}}, {Labels: map[string]string{ActionLabel: ActRestart}},
	} {
		if err := Validate(&c, true); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestStates is the life of a container by the results of its checks: r is one
// that failed, 0 one that did not, and the time of each in seconds.
func TestStates(t *testing.T) {
	k := &Check{Retries: 2, StartPeriod: 10 * time.Second, StartInterval: 4 * time.Second, Interval: time.Minute}
	at := time.Now()
	h := Begin(nil)
	for i, step := range []struct {
		second, code int
		status       container.HealthStatus
		streak       int
		wait         time.Duration
	}{
		{1, 1, container.Starting, 0, 4 * time.Second},
		{8, 1, container.Starting, 0, 2 * time.Second},
		{10, 1, container.Starting, 1, time.Minute},
		{11, -1, container.Unhealthy, 2, time.Minute},
		{12, 1, container.Unhealthy, 3, time.Minute},
		{13, 0, container.Healthy, 0, time.Minute},
		{14, 1, container.Healthy, 1, time.Minute},
		{15, 0, container.Healthy, 0, time.Minute},
	} {
		up := time.Duration(step.second) * time.Second
		h = k.After(h, at, &container.HealthcheckResult{Start: at.Add(up), ExitCode: step.code})
		if h.Status != step.status || h.FailingStreak != step.streak || len(h.Log) != min(i+1, 5) || k.Wait(h.Status, up) != step.wait {
			t.Errorf("step %d: %s, streak %d, %d results, wait %s", i, h.Status, h.FailingStreak, len(h.Log), k.Wait(h.Status, up))
		}
	}
	early := k.After(Begin(h), at, &container.HealthcheckResult{Start: at.Add(time.Second)})
	if early.Status != container.Healthy || len(early.Log) != 5 {
		t.Errorf("a success in the start period: %+v", early)
	}
	if got := k.After(early, at, &container.HealthcheckResult{Start: at.Add(2 * time.Second), ExitCode: 1}); got.FailingStreak != 1 {
		t.Errorf("after it the period counts no more: %+v", got)
	}
	if got := Idle(early); got.Status != container.Unhealthy || early.Status != container.Healthy {
		t.Error("idle", got.Status, early.Status)
	}
}

func TestOutput(t *testing.T) {
	var o Output
	for range 3 {
		if n, err := o.Write([]byte(strings.Repeat("x", 2000))); n != 2000 || err != nil {
			t.Fatal(n, err)
		}
	}
	if s := o.String(); len(s) != MaxOutput+3 || !strings.HasSuffix(s, "x...") {
		t.Error(len(s))
	}
}

// TestSchedule: a thousand that are due are checked, some at once; one that hangs
// holds up no other, and ends when it is dropped.
func TestSchedule(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	seen := map[string]int{}
	var now, most atomic.Int32
	hung := make(chan struct{})
	s := NewSchedule(ctx, 4, func(ctx context.Context, id string) (time.Duration, bool) {
		if strings.HasPrefix(id, "hang") {
			<-ctx.Done()
			hung <- struct{}{}
			return 0, true
		}
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(100 * time.Microsecond)
		now.Add(-1)
		mu.Lock()
		defer mu.Unlock()
		seen[id]++
		return 0, seen[id] < 2
	})
	for i := range 8 {
		s.Add(fmt.Sprint("hang", i), 0)
	}
	for i := range 1000 {
		s.Add(fmt.Sprint(i), time.Duration(i%7)*time.Millisecond)
	}
	s.Add("dropped", 20*time.Millisecond)
	s.Drop("dropped")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		n := 0
		for _, times := range seen {
			n += times
		}
		dropped := seen["dropped"]
		mu.Unlock()
		if dropped > 0 {
			t.Fatal("a dropped one was checked")
		}
		if n == 2000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of 2000 checks", n)
		}
	}
	if m := most.Load(); m > 4 {
		t.Errorf("%d checks at once", m)
	}
	for i := range 4 {
		s.Drop(fmt.Sprint("hang", i))
		<-hung
	}
	go func() { // those of the end
		for range hung {
		}
	}()
	cancel()
	s.Wait()
	close(hung)
}
