package image

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-containerregistry/pkg/name"
	behaves "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// fake is a registry that behaves, until a test makes it misbehave.
type fake struct {
	t    *testing.T
	addr string
	url  string

	mu   sync.Mutex // guards all below
	hook func(w http.ResponseWriter, r *http.Request) (handled bool)
	seen []*http.Request
	real http.Handler
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, real: behaves.New(behaves.Logger(log.New(io.Discard, "", 0)))}
	srv := httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(srv.Close)
	f.url, f.addr = srv.URL, strings.TrimPrefix(srv.URL, "http://")
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	hook := f.hook
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		f.seen = append(f.seen, r.Clone(context.Background()))
	}
	f.mu.Unlock()
	if hook != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) && hook(w, r) {
		return
	}
	f.real.ServeHTTP(w, r)
}

// misbehave replaces what is answered to GET and HEAD.
func (f *fake) misbehave(hook func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook, f.seen = hook, nil
}

// asked lists requests whose path contains part.
func (f *fake) asked(method, part string) (list []*http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.seen {
		if (method == "" || r.Method == method) && strings.Contains(r.URL.Path, part) {
			list = append(list, r)
		}
	}
	return list
}

func (f *fake) push(to string, img v1.Image) {
	f.t.Helper()
	ref, err := name.ParseReference(f.addr + "/" + to)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) pushIndex(to string, index v1.ImageIndex) {
	f.t.Helper()
	ref, err := name.ParseReference(f.addr + "/" + to)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) try(s *Service, what string) (*lines, error) {
	var l lines
	return &l, s.Pull(context.Background(), PullRequest{Reference: f.addr + "/" + what}, l.show)
}

func (f *fake) pull(s *Service, what string) *lines {
	f.t.Helper()
	l, err := f.try(s, what)
	if err != nil {
		f.t.Fatalf("pull %s: %v\n%s", what, err, l)
	}
	return l
}

// nothingLeft fails if s has content, snapshots or leases after a failed pull.
func nothingLeft(t *testing.T, s *Service) {
	t.Helper()
	ctx := s.context(context.Background())
	if err := s.CollectGarbage(ctx); err != nil {
		t.Fatal(err)
	}
	var left []string
	_ = s.blobs.Walk(ctx, func(i content.Info) error {
		left = append(left, "blob "+i.Digest.String())
		return nil
	})
	_ = s.layers.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		left = append(left, "snapshot "+i.Name)
		return nil
	})
	all, err := s.leases.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		left = append(left, "lease "+l.ID)
	}
	names, err := s.names.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		left = append(left, "name "+n.Name)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

// onlyDownloads fails if a pull that was cut off left anything but blobs, which
// one lease holds for a day.
func onlyDownloads(t *testing.T, s *Service) {
	t.Helper()
	ctx := s.context(context.Background())
	if err := s.CollectGarbage(ctx); err != nil {
		t.Fatal(err)
	}
	_ = s.layers.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		t.Errorf("left behind: snapshot %s", i.Name)
		return nil
	})
	all, err := s.leases.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Labels[leftLabel] == "" || l.Labels["containerd.io/gc.expire"] == "" {
			t.Errorf("left behind: lease %s %v", l.ID, l.Labels)
		}
	}
	names, err := s.names.List(ctx)
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: names %v, %v", names, err)
	}
}

// noLeases fails if anything but names holds content.
func noLeases(t *testing.T, s *Service) {
	t.Helper()
	if all, err := s.leases.List(s.context(context.Background())); err != nil || len(all) > 0 {
		t.Errorf("leases %v, %v", all, err)
	}
}

func ingests(t *testing.T, s *Service) (list []string) {
	t.Helper()
	all, err := s.blobs.ListStatuses(s.context(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		list = append(list, fmt.Sprintf("%s at %d", i.Ref, i.Offset))
	}
	return list
}

type (
	httpWriter  = http.ResponseWriter
	httpRequest = http.Request
)

// hangAfter sends n bytes of one blob and then nothing more.
func hangAfter(f *fake, digest string, n int, arrived chan<- struct{}, hang <-chan struct{}) func(httpWriter, *httpRequest) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, digest) || r.Method != http.MethodGet {
			return false
		}
		rec := httptest.NewRecorder()
		f.real.ServeHTTP(rec, withoutRange(r))
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		_, _ = w.Write(rec.Body.Bytes()[:n])
		_ = http.NewResponseController(w).Flush()
		arrived <- struct{}{}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	}
}

// waitForBytes waits until the files below dir have n bytes.
func waitForBytes(t *testing.T, dir string, n int64) {
	t.Helper()
	for range 500 {
		var sum int64
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				if i, err := d.Info(); err == nil {
					sum += i.Size()
				}
			}
			return nil
		})
		if sum >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d bytes did not arrive below %s", n, dir)
}
