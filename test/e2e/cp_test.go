package e2e

import (
	"archive/tar"
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

	"hezi/test/harness"
)

// TestCopyRaces: a container that swaps a directory for a link to the host's path
// of the same name, all the while, gets nothing of the host into an archive, and
// nothing of an archive onto the host (CVE-2018-15664, CVE-2019-14271).
func TestCopyRaces(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "x")
	if err := os.WriteFile(secret, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	engine.Must(t, "run", "-d", "--name", "cp-race", "busybox", "sh", "-c",
		"mkdir -p /a/real /a/b; echo inside > /a/real/x; ln -s "+outside+" /a/link; ln -s /proc/1/root"+outside+" /a/magic; touch /ready; "+
			"while :; do mv /a/real /a/b/d; mv /a/b/d /a/real; mv /a/link /a/b/d; mv /a/b/d /a/link; mv /a/magic /a/b/d; mv /a/b/d /a/magic; done")
	defer engine.Must(t, "rm", "-f", "cp-race")
	await(t, engine, is(""), "exec", "cp-race", "cat", "/ready")
	evil := harness.Tar(t, "x", []byte("of the container"))
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", strings.TrimPrefix(engine.Host, "unix://"))
	}}}
	defer client.CloseIdleConnections()
	archive := func(method, path string, body io.Reader) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://hezi/v1.50/containers/cp-race/archive?path="+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body) // one that is cut off says so by its end
		return resp.StatusCode, string(b)
	}
	in, out := 0, 0
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && (in < 100 || out < 100); {
		for _, p := range []string{"/a/b/d/x", "/a/b/d/.", "/a/b"} {
			code, body := archive("GET", p, nil)
			if strings.Contains(body, "of the host") {
				t.Fatalf("the archive of %s has a file of the host", p)
			}
			if code == http.StatusOK {
				out++
			}
		}
		if code, _ := archive("PUT", "/a/b/d", bytes.NewReader(evil)); code == http.StatusOK {
			in++
		}
		if b, err := os.ReadFile(secret); err != nil || string(b) != "of the host" {
			t.Fatalf("the host's file is %q, %v", b, err)
		}
	}
	if in < 10 || out < 10 {
		t.Errorf("%d archives were read and %d written: the test tries nothing", out, in)
	}
}

// TestCopyOwners: a container with users of its own has the owners inside that
// an archive says, and an archive of it the owners inside, running or not.
func TestCopyOwners(t *testing.T) {
	engine := configured(t, `{"userns-auto-range": "700000:65536"}`)
	engine.Must(t, "run", "-d", "--name", "cp-users", "--userns", "auto", "-v", "cp-users:/vol", "--tmpfs", "/t", "busybox", "sleep", "1000")
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	if err := w.WriteHeader(&tar.Header{Name: "owned", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 12, Gid: 34, Size: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, running := range []bool{true, false} {
		if !running {
			engine.Must(t, "stop", "-t", "0", "cp-users")
		}
		for _, dir := range []string{"/", "/vol", "/t"} {
			if dir == "/t" && !running {
				continue // what was in memory is gone
			}
			if r := engine.HeziIn(body.Bytes(), "cp", "-", "cp-users:"+dir); r.Code != 0 {
				t.Errorf("into %s, running %v: %s", dir, running, r.Err)
				continue
			}
			h, err := tar.NewReader(strings.NewReader(engine.Hezi("cp", "cp-users:"+dir+"/owned", "-").Out)).Next()
			if err != nil || h.Uid != 12 || h.Gid != 34 {
				t.Errorf("out of %s, running %v: %+v, %v", dir, running, h, err)
			}
		}
	}
	engine.Must(t, "start", "cp-users")
	if got := engine.Must(t, "exec", "cp-users", "stat", "-c", "%u:%g", "/owned", "/vol/owned"); got != "12:34\n12:34" {
		t.Errorf("inside, the owners are %q", got)
	}
	r := tar.NewReader(strings.NewReader(engine.Hezi("cp", "cp-users:/bin/busybox", "-").Out))
	if h, err := r.Next(); err != nil || h.Uid != 0 {
		t.Errorf("of the image: %+v, %v", h, err)
	}
	_, _ = io.Copy(io.Discard, r)
}

// TestCopyWhileItEnds: a container that ends just then is copied from as one that has
// stopped.
func TestCopyWhileItEnds(t *testing.T) {
	engine.Must(t, "create", "--name", "cp-ends", "busybox", "true")
	t.Cleanup(func() { engine.Must(t, "rm", "-f", "cp-ends") })
	for range 40 {
		engine.Must(t, "start", "cp-ends")
		engine.Must(t, "cp", "cp-ends:/etc/passwd", "-")
	}
}
