package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// stress is one client of many that do what they like with the same containers.
type stress struct {
	t    *testing.T
	http *http.Client
}

// call sends a request; an answer may refuse, but never fail.
func (s *stress) call(method, path string, body any, into any) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			s.t.Error(err)
			return 0
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://hezi/v1.44"+path, in)
	if err != nil {
		s.t.Error(err)
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, path, err)
		return 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 500 {
		s.t.Errorf("%s %s: %d %s %v", method, path, resp.StatusCode, b, err)
		return resp.StatusCode
	}
	if into != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(b, into); err != nil {
			s.t.Errorf("%s %s: %v", method, path, err)
		}
	}
	return resp.StatusCode
}

// inspect checks that a container's state is one state.
func (s *stress) inspect(name string) {
	var c struct {
		State struct {
			Status                            string
			Running, Paused, Restarting, Dead bool
			Pid                               int
		}
	}
	if s.call("GET", "/containers/"+name+"/json", nil, &c) != http.StatusOK {
		return
	}
	st := c.State
	running := st.Status == "running" || st.Status == "paused"
	if st.Running != (running || st.Restarting) || st.Paused != (st.Status == "paused") || st.Dead || running != (st.Pid > 0) {
		s.t.Errorf("%s is in no state: %+v", name, st)
	}
}

func (s *stress) act(name string) {
	at := "/containers/" + name
	switch rand.IntN(18) {
	case 0, 1:
		host := map[string]any{"AutoRemove": rand.IntN(3) == 0}
		if rand.IntN(3) == 0 {
			host = map[string]any{"RestartPolicy": map[string]any{"Name": "always"}}
		}
		s.call("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox", "Cmd": []string{"sh", "-c", "trap 'exit 3' TERM; sleep 0.2 & wait; sleep 100 & wait"},
			"HostConfig": host, "Volumes": map[string]any{"/v": struct{}{}}}, nil)
	case 2, 3:
		s.call("POST", at+"/start", nil, nil)
	case 4:
		s.call("POST", at+"/stop?t=1", nil, nil)
	case 5:
		s.call("POST", at+"/restart?t=0", nil, nil)
	case 6:
		s.call("POST", at+"/kill?signal="+[]string{"KILL", "TERM", "HUP"}[rand.IntN(3)], nil, nil)
	case 7:
		s.call("POST", at+"/pause", nil, nil)
	case 8:
		s.call("POST", at+"/unpause", nil, nil)
	case 9:
		s.call("DELETE", at+"?force=1&v=1", nil, nil)
	case 10:
		s.call("DELETE", at+"?v=1", nil, nil)
	case 11, 14, 15, 16, 17:
		var x struct{ ID string }
		if s.call("POST", at+"/exec", map[string]any{"Cmd": []string{"sleep", "0.1"}}, &x) == http.StatusCreated {
			s.call("POST", "/exec/"+x.ID+"/start", map[string]any{"Detach": true}, nil)
			s.call("GET", "/exec/"+x.ID+"/json", nil, nil)
		}
	case 12:
		s.inspect(name)
	case 13:
		s.call("GET", "/containers/json?all=1", nil, nil)
		s.call("GET", at+"/top", nil, nil)
	}
}

func newStress(t *testing.T) *stress {
	socket := strings.TrimPrefix(engine.Host, "unix://")
	s := &stress{t: t, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}}
	t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// TestPauseWhileExecsStart: an exec that starts when its container is paused is either
// refused or has started; its client never waits for somebody to unpause.
func TestPauseWhileExecsStart(t *testing.T) {
	s := newStress(t)
	engine.Must(t, "run", "-d", "--name", "still", "busybox", "sleep", "1000")
	t.Cleanup(func() { engine.Hezi("rm", "-f", "still") })
	started := 0
	for range 40 {
		answers := make(chan int, 4)
		for range cap(answers) {
			go func() {
				var x struct{ ID string }
				code := s.call("POST", "/containers/still/exec", map[string]any{"Cmd": []string{"true"}}, &x)
				if code == http.StatusCreated {
					code = s.call("POST", "/exec/"+x.ID+"/start", map[string]any{"Detach": true}, nil)
				}
				answers <- code
			}()
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		s.call("POST", "/containers/still/pause", nil, nil)
		for range cap(answers) {
			select {
			case code := <-answers:
				if code == http.StatusOK {
					started++
				} else if code != http.StatusConflict {
					t.Errorf("an exec beside a pause: %d", code)
				}
			case <-time.After(30 * time.Second):
				t.Error("an exec waits in a container that is paused")
			}
		}
		s.call("POST", "/containers/still/unpause", nil, nil)
		if t.Failed() {
			return
		}
	}
	if started == 0 {
		t.Error("no exec started")
	}
}

// TestManyHandsOnOneContainer: clients that start, stop, kill, pause, restart
// and remove the same containers at the same time get an answer each, no
// container is ever in two states, and nothing is left.
func TestManyHandsOnOneContainer(t *testing.T) {
	engine.Must(t, "run", "--rm", "busybox", "true")
	before := engine.Count()
	s := newStress(t)
	end := time.Now().Add(5 * time.Second)
	var clients sync.WaitGroup
	for range 12 {
		clients.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				s.act(fmt.Sprintf("stress-%d", rand.IntN(3)))
			}
		})
	}
	clients.Wait()
	for i := range 3 {
		s.call("DELETE", fmt.Sprintf("/containers/stress-%d?force=1&v=1", i), nil, nil)
	}
	s.http.CloseIdleConnections()
	if ids := engine.Must(t, "ps", "-aq"); ids != "" {
		t.Errorf("containers are left:\n%s", engine.Must(t, "ps", "-a"))
	}
	engine.NothingLeft(t, before, 4)
	log, err := os.ReadFile(filepath.Join(engine.Dir, "hezid.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"DATA RACE", "panicked", "cannot become"} {
		if i := bytes.Index(log, []byte(bad)); i >= 0 {
			t.Errorf("hezid's log says: %.2000s", log[i:])
		}
	}
	if t.Failed() {
		for line := range bytes.Lines(log) {
			if bytes.Contains(line, []byte("level=WARN")) || bytes.Contains(line, []byte("level=ERROR")) {
				t.Logf("%s", line)
			}
		}
	}
}
