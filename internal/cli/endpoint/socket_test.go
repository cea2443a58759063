package endpoint

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// served is a daemon on a socket that counts connections.
func served(t *testing.T, handler http.HandlerFunc) (*http.Client, *http.Server, *atomic.Int32) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	n := new(atomic.Int32)
	srv := &http.Server{Handler: handler, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.Add(1)
		}
	}}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { srv.Close() })
	tr := &socketTransport{dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, srv, n
}

func get(t *testing.T, c *http.Client, method, path string, body io.Reader) string {
	t.Helper()
	req, err := http.NewRequest(method, "http://d"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSocketKeepsItsConnection(t *testing.T) {
	closing := false
	c, _, conns := served(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if closing {
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(http.StatusOK)
		io.WriteString(w, r.Method+string(b)) //nolint:errcheck // the test reads it
		w.(http.Flusher).Flush()              // chunked
		io.WriteString(w, ".")                //nolint:errcheck // the test reads it
	})
	for range 3 {
		if got := get(t, c, "GET", "/", nil); got != "GET." {
			t.Fatalf("got %q", got)
		}
		if got := get(t, c, "POST", "/", strings.NewReader("body")); got != "POSTbody." {
			t.Fatalf("got %q", got)
		}
		if got := get(t, c, "HEAD", "/", nil); got != "" {
			t.Fatalf("got %q", got)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for nine requests", n)
	}
	closing = true
	get(t, c, "GET", "/", nil)
	get(t, c, "GET", "/", nil)
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections after the daemon had closed one, want 2", n)
	}
	closing = false
	long := strings.Repeat("x", smallBody+1)
	if got := get(t, c, "POST", "/", strings.NewReader(long)); got != "POST"+long+"." {
		t.Errorf("a long body came back as %d bytes", len(got))
	}
}

// A daemon that restarts closes what is idle: the next request gets a new
// connection instead of an error.
func TestSocketOutlivesADaemon(t *testing.T) {
	c, srv, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }) //nolint:errcheck // the test reads it
	get(t, c, "GET", "/", nil)
	tr := c.Transport.(*socketTransport)
	if tr.idle == nil {
		t.Fatal("no idle connection")
	}
	old := tr.idle
	srv.SetKeepAlivesEnabled(false) // closes idle connections
	deadline := time.Now().Add(5 * time.Second)
	for old.quiet() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := get(t, c, "POST", "/", strings.NewReader("x")); got != "ok" {
		t.Errorf("got %q", got)
	}
}

func TestSocketEndsWithItsContext(t *testing.T) {
	over := make(chan struct{})
	c, _, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			w.(http.Flusher).Flush()
		}
		select {
		case <-r.Context().Done():
		case <-over:
		}
	})
	defer close(over)
	for _, path := range []string{"/stream", "/silent"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", "http://d"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSocketExplainsASilentEnd(t *testing.T) {
	c, _, _ := served(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := c.Get("http://d/")
	if err == nil || !strings.Contains(err.Error(), "closed the connection without an answer") {
		t.Errorf("got %v", err)
	}
}
