package image

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hezi/internal/image/registry"
)

// throttled serves blobs as a registry does that gives each connection little:
// whole or by ranges. fail is asked for each range.
type throttled struct {
	mu       sync.Mutex // guards all below
	now, top int        // answers at once
	ranges   []string
	fail     func(n int, r *http.Request) bool
	noRanges bool
}

func (s *throttled) helped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ranges) > 0
}

func (s *throttled) serve(digest string, data []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
			return false
		}
		from, to, status := 0, len(data), http.StatusOK
		s.mu.Lock()
		if h := r.Header.Get("Range"); h != "" && !s.noRanges {
			if _, err := fmt.Sscanf(h, "bytes=%d-%d", &from, &to); err == nil {
				to++
			}
			status = http.StatusPartialContent
			s.ranges = append(s.ranges, h)
		}
		n := len(s.ranges)
		fail := s.fail != nil && status == http.StatusPartialContent && s.fail(n, r)
		s.now++
		s.top = max(s.top, s.now)
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			s.now--
			s.mu.Unlock()
		}()
		if fail {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		if !s.noRanges {
			w.Header().Set("Accept-Ranges", "bytes")
		}
		w.Header().Set("Content-Length", strconv.Itoa(to-from))
		if status == http.StatusPartialContent {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(data)))
		}
		w.WriteHeader(status)
		for from < to { // 16 MiB a second, and much less until help comes: a busy machine may be the slower one
			size := 256 << 10
			if status == http.StatusOK && !s.noRanges && from > len(data)/8 && !s.helped() {
				size = 8 << 10
			}
			end := min(from+size, to)
			if _, err := w.Write(data[from:end]); err != nil {
				return true
			}
			w.(http.Flusher).Flush()
			from = end
			time.Sleep(15 * time.Millisecond)
		}
		return true
	}
}

// A large layer on a line that gives each connection little comes over
// several; what fails in that goes on over one.
func TestALargeLayerComesInParts(t *testing.T) {
	body := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(body)
	img := imageOf(t, []entry{file("large", string(body))})
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	oldAfter, oldWorth := splitAfter, splitWorth
	splitAfter, splitWorth = 20*time.Millisecond, 8<<20
	defer func() { splitAfter, splitWorth = oldAfter, oldWorth }()
	for name, c := range map[string]*struct {
		s    throttled
		many bool
	}{
		"parts":          {throttled{}, true},
		"a part fails":   {throttled{fail: func(n int, _ *http.Request) bool { return n == 6 }}, true},
		"no part comes":  {throttled{fail: func(_ int, r *http.Request) bool { return !strings.HasSuffix(r.Header.Get("Range"), "-") }}, false},
		"without ranges": {throttled{noRanges: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newFake(t)
			reg.push("x:1", img)
			reg.misbehave(c.s.serve(digest.String(), data))
			s := open(t, registry.Config{})
			reg.pull(s, "x:1")
			within(t, s, img, func(root string) {
				if b, err := os.ReadFile(filepath.Join(root, "large")); err != nil || !bytes.Equal(b, body) {
					t.Errorf("the file has %d bytes: %v", len(b), err)
				}
			})
			c.s.mu.Lock()
			defer c.s.mu.Unlock()
			if many := c.s.top > 2; many != c.many && name != "no part comes" {
				t.Errorf("%d connections at once", c.s.top)
			}
			if c.s.noRanges != (len(c.s.ranges) == 0) {
				t.Errorf("ranges: %v", c.s.ranges)
			}
			if c.s.now != 0 {
				t.Errorf("%d connections are left", c.s.now)
			}
		})
	}
}
