package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// namespace is one of its own with lo up, in which nothing listens.
func namespace(t *testing.T) *os.File {
	t.Helper()
	cmd := exec.Command("sh", "-c", "ip link set lo up && echo up && exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // PDEATHSIG is of the thread
	t.Cleanup(runtime.UnlockOSThread)
	if err := cmd.Start(); err != nil {
		t.Skip("a network namespace needs root: ", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestProbe(t *testing.T) {
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/well", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fine ", r.Host) })
	mux.HandleFunc("/ill", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "sorry", http.StatusServiceUnavailable) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ill", http.StatusFound) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) })
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, secret := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer secret.Close()
	defer plain.Close()
	_, port, err := net.SplitHostPort(plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var p Prober
	for path, want := range map[string]struct {
		ok   bool
		text string
	}{
		"/well": {true, "HTTP 200 OK: fine localhost:" + port}, "/ill": {false, "HTTP 503 Service Unavailable: sorry"}, "/away": {true, "HTTP 302 Found"},
		"/endless": {true, "HTTP 200 OK: "}, "/headers": {false, "server response headers exceeded"},
	} {
		ok, text := p.HTTP(ctx, host, "http://localhost:"+port+path)
		if ok != want.ok || !strings.Contains(text, want.text) || len(text) > 5000 {
			t.Errorf("%s: %t, %.100q (%d bytes)", path, ok, text, len(text))
		}
	}
	if ok, text := p.HTTP(ctx, host, secret.URL+"/well"); !ok {
		t.Errorf("https: %s", text)
	}
	if ok, text := p.TCP(ctx, host, "localhost:"+port); !ok {
		t.Errorf("tcp: %s", text)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if ok, text := p.HTTP(short, host, "http://localhost:"+port+"/silent"); ok || !strings.Contains(text, "deadline") {
		t.Errorf("silent: %s", text)
	}
	// What listens on the host's localhost is not on another's.
	other := namespace(t)
	if ok, text := p.TCP(ctx, other, "localhost:"+port); ok || !strings.Contains(text, "connection refused") {
		t.Errorf("in a namespace of its own: %t %s", ok, text)
	}
	if ok, text := p.HTTP(ctx, other, "http://localhost:"+port+"/well"); ok || !strings.Contains(text, "connection refused") {
		t.Errorf("in a namespace of its own: %t %s", ok, text)
	}
}

// TestSix: localhost is ::1 where nobody answers on 127.0.0.1.
func TestSix(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6: ", err)
	}
	defer l.Close()
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if ok, text := (Prober{}).TCP(t.Context(), host, "localhost:"+port); !ok {
		t.Error(text)
	}
}
