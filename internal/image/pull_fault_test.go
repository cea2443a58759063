package image

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"hezi/internal/image/registry"
)

// noise is a file that does not compress, so that its layer has about its size.
func noise(size int) string {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return string(b)
}

func errorJSON(w http.ResponseWriter, status int, code, message string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
	return true
}

func answer(body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprint(w, body)
		return true
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, ref string
		hook      func(w http.ResponseWriter, r *http.Request) bool
		is        func(error) bool
		want      []string
	}{
		{"unknown repository", "nothing:1", nil, errdefs.IsNotFound, []string{"repository ADDR/nothing not found: name unknown: "}},
		{"unknown tag", "x:no", nil, errdefs.IsNotFound, []string{"manifest for ADDR/x:no not found: manifest unknown: "}},
		{"401", "x:1", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			return errorJSON(w, 401, "UNAUTHORIZED", "authentication required")
		}, errdefs.IsNotFound, []string{"pull access denied for ADDR/x, repository does not exist or may require 'docker login': unauthorized: authentication required"}},
		{"403", "x:1", func(w http.ResponseWriter, _ *http.Request) bool {
			return errorJSON(w, 403, "DENIED", "requested access to the resource is denied")
		}, errdefs.IsNotFound, []string{"pull access denied for ADDR/x,", "denied: requested access to the resource is denied"}},
		{"404 without words", "x:1", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true }, errdefs.IsNotFound,
			[]string{"manifest for ADDR/x:1 not found: manifest unknown: manifest unknown"}},
		{"429 for long", "x:1", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "3600")
			return errorJSON(w, 429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
		}, errdefs.IsResourceExhausted, []string{"toomanyrequests: ", "wait 1h0m0s", "registry-mirrors"}},
		{"500", "x:1", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }, errdefs.IsUnavailable,
			[]string{"received unexpected HTTP status: 500 Internal Server Error from http://ADDR", "try again later"}},
		{"wrong manifest", "x:1", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				fmt.Fprint(w, `{"schemaVersion":2}`)
				return true
			}
			return false
		}, errdefs.IsDataLoss, []string{"http://ADDR sent a wrong manifest: expected digest sha256:", ", got sha256:"}},
		{"wrong blob", "x:1", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			fmt.Fprint(w, "surely something else")
			return true
		}, errdefs.IsDataLoss, []string{"http://ADDR sent a wrong blob"}},
		{"schema 1", "x:1", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			if r.Method == http.MethodGet {
				fmt.Fprint(w, `{"schemaVersion":1,"fsLayers":[]}`)
			}
			return true
		}, errdefs.IsInvalidArgument, []string{"the manifest of schema 1 is broken: it has 0 layers and 0 entries of history"}},
		{"a web page", "x:1", func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprint(w, `<html>`)
			return true
		}, errdefs.IsUnavailable, []string{"answered with a web page: it is no registry, or a proxy"}},
		{"not JSON", "x:1", answer(`{"schemaVersion":2`), errdefs.IsInvalidArgument, []string{"is not JSON: unexpected end of JSON input: push the image again"}},
		{"null", "x:1", answer(`null`), errdefs.IsInvalidArgument, []string{"lists neither layers nor manifests"}},
		{"other JSON", "x:1", answer(`[1]`), errdefs.IsInvalidArgument, []string{"is not what it should be: it is of JSON type array"}},
		{"other JSON within", "x:1", answer(`{"schemaVersion":2,"layers":[{"size":"1"}]}`), errdefs.IsInvalidArgument, []string{"layers.size is of JSON type string"}},
		{"a manifest without end", "x:1", func(w http.ResponseWriter, r *http.Request) bool {
			for range 64 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			return true
		}, errdefs.IsInvalidArgument, []string{"sent more than 4 MiB where a manifest was asked for"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := newFake(t)
			reg.push("x:1", imageOf(t, []entry{file("a", "1")}))
			reg.misbehave(c.hook)
			s := open(t, registry.Config{MaxAttempts: 2})
			_, err := reg.try(s, c.ref)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if want = strings.ReplaceAll(want, "ADDR", reg.addr); !strings.Contains(err.Error(), want) {
					t.Errorf("got  %s\nwant %s", err, want)
				}
			}
			if !c.is(err) {
				t.Errorf("wrong class: %v", err)
			}
			t.Log(err)
			nothingLeft(t, s)
		})
	}
}

// A layer that only other hosts have: what each of them answered is said, and
// a download that never began leaves nothing.
func TestForeignLayersThatNobodyServes(t *testing.T) {
	reg := newFake(t)
	a := archiveOf(t, file("f", "foreign"))
	layer := layerFrom(t, a, gzipped(t, a), types.DockerForeignLayer)
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: foreignLayer{layer}, URLs: []string{"file:///etc/passwd", reg.url + "/gone?key=secret", "http://127.0.0.1:1/l"}})
	if err != nil {
		t.Fatal(err)
	}
	reg.push("x:1", img)
	s := open(t, registry.Config{})
	_, err = reg.try(s, "x:1")
	if !errdefs.IsNotFound(err) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"layer sha256:", " is not on " + reg.url + ", and not where the image says that it is: ", `"file:///etc/passwd" is no http or https address; `, "/gone?key=secret: 404 Not Found; ", "http://127.0.0.1:1/l: dial 127.0.0.1:1: connect: connection refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwithout %s", err, want)
		}
	}
	nothingLeft(t, s)
	if left := ingests(t, s); len(left) > 0 {
		t.Errorf("downloads that never began: %v", left)
	}
}

func TestInvalidReference(t *testing.T) {
	s := open(t, registry.Config{})
	for _, ref := range []string{"", "UPPER", "a:b:c", "https://x/y", "x@sha256:12", strings.Repeat("a", 300)} {
		if err := s.Pull(context.Background(), PullRequest{Reference: ref}, nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "invalid reference format") && !strings.Contains(err.Error(), "must be") {
			t.Errorf("%q: %v", ref, err)
		}
	}
	err := s.Pull(context.Background(), PullRequest{Reference: "busybox:1", All: true}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "tag can't be used with --all-tags/-a") {
		t.Error(err)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	reg := newFake(t)
	reg.push("x:1", imageOf(t, []entry{file("a", "1")}))
	var n atomic.Int32
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		return errorJSON(w, 429, "TOOMANYREQUESTS", "slow down")
	})
	s := open(t, registry.Config{})
	began := time.Now()
	reg.pull(s, "x:1")
	if time.Since(began) < time.Second {
		t.Errorf("asked again after %s", time.Since(began))
	}
}

func TestServerErrorsAreRetried(t *testing.T) {
	reg := newFake(t)
	reg.push("x:1", imageOf(t, []entry{file("a", "1")}))
	var manifests, blobs atomic.Int32
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		n := &manifests
		if strings.Contains(r.URL.Path, "/blobs/") {
			n = &blobs
		}
		if n.Add(1) > 2 { // HEAD and GET once each
			return false
		}
		w.WriteHeader(503)
		return true
	})
	reg.pull(open(t, registry.Config{}), "x:1")
}

// cutting sends at most n bytes of blobs larger than that, then breaks off,
// until it is told to stop.
func cutting(reg *fake, n int64, until func() bool) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || until() {
			return ranged(reg, w, r)
		}
		rec := httptest.NewRecorder()
		reg.real.ServeHTTP(rec, withoutRange(r))
		if int64(rec.Body.Len()) <= n {
			return ranged(reg, w, r)
		}
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		w.WriteHeader(200)
		_, _ = w.Write(rec.Body.Bytes()[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func withoutRange(r *http.Request) *http.Request {
	r = r.Clone(context.Background())
	r.Header.Del("Range")
	return r
}

// ranged serves blobs with ranges.
func ranged(reg *fake, w http.ResponseWriter, r *http.Request) bool {
	if !strings.Contains(r.URL.Path, "/blobs/") || r.Method != http.MethodGet {
		return false
	}
	rec := httptest.NewRecorder()
	reg.real.ServeHTTP(rec, withoutRange(r))
	if rec.Code != 200 {
		return false
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(rec.Body.String()))
	return true
}

func TestCutGoesOnByRange(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("big", noise(3<<20))})
	reg.push("x:1", img)
	var n atomic.Int32
	reg.misbehave(cutting(reg, 1<<20, func() bool { return n.Add(1) > 2 })) // config is small and not cut
	s := open(t, registry.Config{})
	l := reg.pull(s, "x:1")
	var ranges []string
	for _, r := range reg.asked(http.MethodGet, "/blobs/") {
		if h := r.Header.Get("Range"); h != "" {
			ranges = append(ranges, h)
		}
	}
	if len(ranges) != 1 || !strings.HasPrefix(ranges[0], "bytes=1") {
		t.Errorf("ranges %q\n%s", ranges, l)
	}
	within(t, s, img, func(root string) {
		i, err := os.Stat(filepath.Join(root, "big"))
		if err != nil || i.Size() != 3<<20 {
			t.Error(i, err)
		}
	})
}

func TestAFailedPullIsResumedByTheNext(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("big", noise(3<<20))})
	reg.push("x:1", img)
	var heal atomic.Bool
	reg.misbehave(cutting(reg, 1<<20, heal.Load))
	dir := t.TempDir()
	s, err := Open(context.Background(), Options{Root: dir, Registries: registry.Config{MaxAttempts: 1}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = reg.try(s, "x:1")
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "broke off") {
		t.Fatalf("got %v", err)
	}
	onlyDownloads(t, s)
	if got := ingests(t, s); len(got) != 1 || !strings.HasSuffix(got[0], " at 1048576") {
		t.Errorf("half downloaded: %q", got)
	}
	if err := s.Close(); err != nil { // also after a restart
		t.Fatal(err)
	}
	s, err = Open(context.Background(), Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	heal.Store(true)
	reg.misbehave(cutting(reg, 1<<20, heal.Load))
	reg.pull(s, "x:1")
	got := ""
	for _, r := range reg.asked(http.MethodGet, "/blobs/") {
		got += r.Header.Get("Range")
	}
	if got != "bytes=1048576-" {
		t.Errorf("asked for %q", got)
	}
	if got := ingests(t, s); len(got) != 0 {
		t.Errorf("left %q", got)
	}
	noLeases(t, s)
}

func TestAHostWithoutRangesBeginsAnew(t *testing.T) {
	reg := newFake(t)
	reg.push("x:1", imageOf(t, []entry{file("big", noise(3<<20))}))
	var n atomic.Int32
	cut := cutting(reg, 1<<20, func() bool { return n.Add(1) > 2 })
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return cut(w, r)
	})
	reg.pull(open(t, registry.Config{}), "x:1")
}

func TestASilentRegistryIsNamed(t *testing.T) {
	reg := newFake(t)
	reg.push("x:1", imageOf(t, []entry{file("a", "1")}))
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
		return true
	})
	s := open(t, registry.Config{Patience: 300 * time.Millisecond})
	began := time.Now()
	_, err := reg.try(s, "x:1")
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), reg.addr+" did not answer within 300ms: check") {
		t.Errorf("got %v", err)
	}
	if time.Since(began) > 3*time.Second {
		t.Errorf("took %s", time.Since(began))
	}
}

func TestABodyThatStopsIsResumed(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("big", noise(3<<20))})
	reg.push("x:1", img)
	var n atomic.Int32
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || n.Add(1) != 2 {
			return ranged(reg, w, r)
		}
		rec := httptest.NewRecorder()
		reg.real.ServeHTTP(rec, withoutRange(r))
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		_, _ = w.Write(rec.Body.Bytes()[:100_000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	reg.pull(open(t, registry.Config{Patience: 300 * time.Millisecond}), "x:1")
	if len(reg.asked("", "/blobs/")) < 3 {
		t.Error("the body was not cut")
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := open(t, registry.Config{})
	err = s.Pull(context.Background(), PullRequest{Reference: addr + "/x"}, nil)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}

func TestTwoPullsDownloadALayerOnce(t *testing.T) {
	reg := newFake(t)
	shared := []entry{file("big", noise(1<<20))}
	reg.push("a:1", imageOf(t, shared, []entry{file("a", "1")}))
	reg.push("b:1", imageOf(t, shared, []entry{file("b", "1")}))
	img := imageOf(t, shared)
	list, _ := img.Layers()
	digest, _ := list[0].Digest()
	gate := make(chan struct{})
	var once sync.Once
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, digest.String()) {
			once.Do(func() { time.AfterFunc(300*time.Millisecond, func() { close(gate) }) })
			<-gate
		}
		return false
	})
	s := open(t, registry.Config{})
	var g sync.WaitGroup
	var out [2]*lines
	for i, what := range []string{"a:1", "b:1"} {
		g.Go(func() {
			l, err := reg.try(s, what)
			if err != nil {
				t.Error(err)
			}
			out[i] = l
		})
	}
	g.Wait()
	if n := len(reg.asked(http.MethodGet, digest.String())); n != 1 {
		t.Errorf("the shared layer was asked for %d times", n)
	}
	for _, l := range out {
		if !strings.Contains(l.String(), digest.Hex[:12]+": Downloading") || !strings.Contains(l.String(), digest.Hex[:12]+": Pull complete") {
			t.Errorf("no progress of the shared layer:\n%s", l)
		}
	}
}

func TestACancelledPullHandsOver(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("big", noise(2<<20))})
	reg.push("x:1", img)
	gate, begun := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || r.Method != http.MethodGet {
			return false
		}
		rec := httptest.NewRecorder()
		reg.real.ServeHTTP(rec, withoutRange(r))
		if rec.Body.Len() < 1<<20 || r.Header.Get("Range") != "" {
			return ranged(reg, w, r)
		}
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		_, _ = w.Write(rec.Body.Bytes()[:1<<20])
		w.(http.Flusher).Flush()
		once.Do(func() { close(begun) })
		select {
		case <-gate:
		case <-r.Context().Done():
			return true
		}
		_, _ = w.Write(rec.Body.Bytes()[1<<20:])
		return true
	})
	t.Cleanup(func() { close(gate) })
	s := open(t, registry.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() { first <- s.Pull(ctx, PullRequest{Reference: reg.addr + "/x:1"}, nil) }()
	<-begun
	second := make(chan error, 1)
	go func() { second <- s.Pull(context.Background(), PullRequest{Reference: reg.addr + "/x:1"}, nil) }()
	time.Sleep(300 * time.Millisecond)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
	within(t, s, img, func(root string) {
		if i, err := os.Stat(filepath.Join(root, "big")); err != nil || i.Size() != 2<<20 {
			t.Error(i, err)
		}
	})
}

func TestABigLayerIsStreamed(t *testing.T) {
	const size = 192 << 20
	reg := newFake(t)
	body := noise(size)
	plain := archiveOf(t, file("big", body))
	img := imageFrom(t, layerFrom(t, plain, plain, "application/vnd.oci.image.layer.v1.tar"))
	layers, _ := img.Layers()
	reg.push("x:1", imageOf(t, []entry{file("a", "1")}))
	d, _ := layers[0].Digest()
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, d.String()):
			w.Header().Set("Content-Length", fmt.Sprint(len(plain)))
			for b := plain; len(b) > 0; {
				n := min(len(b), 64<<10)
				if _, err := w.Write(b[:n]); err != nil {
					return true
				}
				b = b[n:]
			}
			return true
		case strings.Contains(r.URL.Path, "/manifests/"):
			m, _ := img.RawManifest()
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(m)))
			return true
		case strings.Contains(r.URL.Path, "/blobs/"):
			c, _ := img.RawConfigFile()
			_, _ = w.Write(c)
			return true
		}
		return false
	})
	s := open(t, registry.Config{})
	body = ""
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				runtime.ReadMemStats(&now)
				peak.Store(max(peak.Load(), now.HeapAlloc))
			}
		}
	}()
	reg.pull(s, "x:1")
	close(stop)
	<-stopped
	if grew := int64(peak.Load()) - int64(before.HeapAlloc); grew > 32<<20 {
		t.Errorf("a layer of %d MiB took %d MiB of memory", size>>20, grew>>20)
	}
}

func TestNoGoroutineOutlivesAPull(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("big", noise(2<<20))}, []entry{file("b", noise(1<<20))})
	reg.push("x:1", img)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // the push's
	before := goleak.IgnoreCurrent()
	s, err := Open(context.Background(), Options{Root: t.TempDir(), Registries: registry.Config{MaxAttempts: 1}})
	if err != nil {
		t.Fatal(err)
	}
	reg.misbehave(cutting(reg, 1<<19, func() bool { return false }))
	if _, err := reg.try(s, "x:1"); err == nil {
		t.Fatal("no error")
	}
	reg.misbehave(nil)
	reg.pull(s, "x:1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}
