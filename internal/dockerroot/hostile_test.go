package dockerroot

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestPipeForFolder: what is no folder is an error, and nobody waits for it.
func TestPipeForFolder(t *testing.T) {
	for _, name := range []string{"image", "containers", "image/overlay2/imagedb/content/sha256", "containerd/daemon"} {
		f := newFake(t)
		f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": "x"})
		f.pipe(name)
		done := make(chan error, 1)
		go func() {
			r, err := Open(f.path, "")
			if err == nil {
				if len(r.warnings) > 0 {
					err = errors.New(r.warnings[0])
				}
				r.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: a pipe is a folder", name)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it waits for a pipe", name)
		}
	}
	f := newFake(t)
	f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": "x"})
	f.pipe("overlay2/abc/diff")
	if _, err := save(f.open(), "a:1"); err == nil {
		t.Error("a layer's tree is a pipe")
	}
}

// TestAccessTimes: reading leaves no trace.
func TestAccessTimes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may leave the times of access of others' files")
	}
	f := newFake(t)
	f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": "x"})
	f.container("a", "2020-01-01T00:00:00Z", "overlay2")
	long := time.Unix(1000000000, 0)
	f.must(filepath.WalkDir(f.path, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, long, time.Time{}))
	}))
	r := f.open()
	_, err := save(r, "a:1")
	f.must(err)
	_, err = r.Containers()
	f.must(err)
	f.must(filepath.WalkDir(f.path, func(path string, _ os.DirEntry, err error) error {
		f.must(err)
		var st unix.Stat_t
		f.must(unix.Lstat(path, &st))
		name := strings.TrimPrefix(path, f.path)
		walked := st.Mode&unix.S_IFMT == unix.S_IFDIR // by this walk
		if !walked && st.Atim.Sec != long.Unix() {
			t.Errorf("%s was read at %v", name, time.Unix(st.Atim.Unix()))
		}
		return nil
	}))
}

// TestEndlessDatabase: pages that name themselves as the next end the reader at its bound.
func TestEndlessDatabase(t *testing.T) {
	const child = "HEZI_TEST_ENDLESS"
	if path := os.Getenv(child); path != "" {
		if err := bound(); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path, "")
		if err == nil {
			_, _, err = r.Volumes()
		}
		t.Fatal(err)
	}
	f := newFake(t)
	pairs := map[string]string{}
	for i := range 2000 {
		pairs[digest.FromString(string(rune(i))).Encoded()] = `{"Driver":"local"}`
	}
	f.bolt("volumes/metadata.db", "volumes", pairs)
	at := filepath.Join(f.path, "volumes/metadata.db")
	body, err := os.ReadFile(at)
	f.must(err)
	const header, element, branch = 16, 16, 1 // in bbolt's pages
	for page := 2 * os.Getpagesize(); page < len(body); page += os.Getpagesize() {
		p := body[page : page+os.Getpagesize()]
		if binary.NativeEndian.Uint16(p[8:]) != branch {
			continue
		}
		for i := range int(binary.NativeEndian.Uint16(p[10:])) {
			copy(p[header+element*i+8:], p[:8])
		}
	}
	f.must(os.WriteFile(at, body, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestEndlessDatabase$")
	cmd.Env = append(os.Environ(), child+"="+f.path)
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil || !regexp.MustCompile("out of memory|stack|ThreadSanitizer failed to allocate").Match(out) {
		t.Errorf("%v: %.500s", err, out)
	}
}

// TestLongParts: a layer's list is not taken into memory whatever it says.
func TestLongParts(t *testing.T) {
	f := newFake(t)
	f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": "x"})
	var list bytes.Buffer
	z := gzip.NewWriter(&list)
	_, err := io.WriteString(z, `{"type":2,"payload":"`+strings.Repeat("A", maxPart)+"\"}\n")
	f.must(err)
	f.must(z.Close())
	f.layerFile("tar-split.json.gz", list.String())
	if _, err := save(f.open(), "a:1"); err == nil || !strings.Contains(err.Error(), "a part has more than") {
		t.Error(err)
	}
}

// TestLiveRestore: a container that outlives Docker is noticed, and a process that only
// has its number is not taken for it.
func TestLiveRestore(t *testing.T) {
	id := strings.Repeat("a", 64)
	shim := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait", "containerd-shim", "-id", id)
	out, err := shim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 32)
	n, err := out.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p, _ := os.FindProcess(pid)
		_, _, _ = p.Kill(), shim.Process.Kill(), shim.Wait()
	})
	f := newFake(t)
	state := func(running bool, pid int) {
		body, err := json.Marshal(map[string]any{"ID": id, "Name": "/db", "Config": map[string]any{}, "State": map[string]any{"Running": running, "Pid": pid}})
		f.must(err)
		f.write("containers/"+id+"/config.v2.json", string(body))
	}
	state(true, pid)
	if got := f.refused(); !strings.Contains(got, "the container db still runs") {
		t.Error(got)
	}
	state(true, os.Getpid())
	f.open().Close()
	state(false, pid)
	f.open().Close()
}

// TestFailure: why an archive ends too early is said of that archive, once, and only
// if the data root is why.
func TestFailure(t *testing.T) {
	f := newFake(t)
	f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": strings.Repeat("x", 1<<20)})
	h := f.open().Handler("1.50")
	saved := func(w http.ResponseWriter) {
		t.Helper()
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("the archive has an end")
			}
		}()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1.50/images/get?names=a:1", nil))
	}
	failure := func(name string) (text string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1.50"+Failure+"?"+url.Values{"names": {name}}.Encode(), nil))
		f.must(json.Unmarshal(w.Body.Bytes(), &text))
		return text
	}
	saved(gone{httptest.NewRecorder()})
	if got := failure("a:1"); got != "" {
		t.Errorf("who asked is gone, and that is a failure: %s", got)
	}
	f.write("overlay2/abc/diff/file", strings.Repeat("y", 1<<20))
	saved(httptest.NewRecorder())
	if got := failure("b:1"); got != "" {
		t.Errorf("another image's: %s", got)
	}
	if got := failure("a:1"); !strings.Contains(got, "checksum") {
		t.Errorf("%q", got)
	}
	if got := failure("a:1"); got != "" {
		t.Errorf("twice: %s", got)
	}
}

// gone is a connection whose other end is closed.
type gone struct{ *httptest.ResponseRecorder }

func (gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
