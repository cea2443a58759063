package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		out  string
	}{
		{nil, 0, "Hello from inside a box"},
		{[]string{"--help"}, 0, "usage: hello"},
		{[]string{"sing"}, 2, `unknown argument "sing"`},
		{[]string{"serve", "1", "2"}, 2, `unknown argument "2"`},
		{[]string{"serve", "70000"}, 2, "is not a port"},
		{[]string{"serve", "x"}, 2, "is not a port"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%q: exit code %d, %s", c.args, code, &out)
		}
	}
}

func tree(t *testing.T, files map[string]string) string {
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLimits(t *testing.T) {
	const cg = "sys/fs/cgroup/"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"v2": {map[string]string{cg + "memory.max": "67108864\n", cg + "cpu.max": "50000 100000\n", cg + "pids.max": "100\n",
			"proc/self/status": "CapEff:\t00000000a80425fb\nSeccomp:\t2\n"},
			[]string{"at most 64 MiB", "at most 0.5", "at most 100", "14 of the 41", "filtered"}},
		"v1": {map[string]string{cg + "memory/memory.limit_in_bytes": "6291456\n", cg + "cpu/cpu.cfs_quota_us": "150000\n",
			cg + "cpu/cpu.cfs_period_us": "100000\n", cg + "pids/pids.max": "7\n"}, []string{"at most 6 MiB", "at most 1.5", "at most 7"}},
		"v1 none": {map[string]string{cg + "memory/memory.limit_in_bytes": "9223372036854771712\n", cg + "cpu/cpu.cfs_quota_us": "-1\n",
			cg + "cpu/cpu.cfs_period_us": "100000\n", cg + "pids/pids.max": "max\n"}, []string{"no limit"}},
		"nothing": {nil, []string{"no limit known", "unknown"}},
	} {
		text := greeting(look(tree(t, c.files)))
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is not in\n%s", name, w, text)
			}
		}
	}
}

type lines chan string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

// start serves on a free port; stop ends it and says how long that took.
func start(t *testing.T) (address string, stop func() time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(lines, 1), make(chan int)
	go func() { done <- run(ctx, []string{"serve", "0"}, out, os.Stderr) }()
	line := strings.TrimSpace(<-out)
	return "127.0.0.1:" + line[strings.LastIndexByte(line, ' ')+1:], func() time.Duration {
		from := time.Now()
		cancel()
		if code := <-done; code != 0 {
			t.Errorf("exit code %d", code)
		}
		return time.Since(from)
	}
}

func TestServe(t *testing.T) {
	address, stop := start(t)
	for path, want := range map[string]string{"/": "盒子里的你好", "/?a=b": "Hello from inside a box", "/healthz": "ok\n"} {
		r, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v %s %s", path, err, r.Status, body)
		}
		if strings.Contains(string(body), "src=") || strings.Contains(string(body), "http://") || strings.Contains(string(body), "https://") {
			t.Errorf("%s fetches something from outside", path)
		}
	}
	r, err := http.Head("http://" + address + "/")
	if err != nil || r.StatusCode != 200 || r.ContentLength <= 0 {
		t.Errorf("HEAD: %v %+v", err, r)
	}
	for request, want := range map[string]string{
		"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello": "HTTP/1.1 405 ",
		"GET /nosuch HTTP/1.0\r\n\r\n":                      "HTTP/1.1 404 ",
		"nonsense\r\n\r\n":                                  "HTTP/1.1 400 ",
		"GET / HTTP/2.0\r\n\r\n":                            "HTTP/1.1 400 ",
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxRequest) + "\r\n\r\n": "HTTP/1.1 431 ",
		"GET http://there/healthz HTTP/1.1\n\n":                                  "HTTP/1.1 200 ",
		"GET http://there HTTP/1.1\r\nHost: there\r\n\r\n":                       "HTTP/1.1 200 ",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request)
		b, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%.30q: %v %.60q", request, err, b)
		}
	}
	idle, err := net.Dial("tcp", address) // must not hold up the end
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if d := stop(); d > time.Second {
		t.Errorf("ended after %v", d)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var out bytes.Buffer
	if code := run(t.Context(), []string{"serve", port}, &out, &out); code != 1 || !strings.Contains(out.String(), "cannot listen on port "+port) {
		t.Errorf("exit code %d, %s", code, &out)
	}
}
