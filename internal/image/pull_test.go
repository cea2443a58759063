package image

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/api/types/jsonstream"

	"hezi/internal/image/registry"
	"hezi/test/harness"
)

// lines collects what a client would be shown.
type lines struct {
	mu  sync.Mutex
	all []jsonstream.Message
}

func (l *lines) show(m jsonstream.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, m)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, m := range l.all {
		b.WriteString(m.ID + ": " + m.Status + "\n")
	}
	return b.String()
}

func open(t *testing.T, c registry.Config) *Service {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("layers are unpacked as root: run the tests as root")
	}
	s, err := Open(context.Background(), Options{Root: t.TempDir(), Registries: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestPullFromARealRegistry(t *testing.T) {
	addr := harness.Registry(t)
	img, err := random.Image(200_000, 4)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(addr + "/some/thing:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s := open(t, registry.Config{})
	var l lines
	if err := s.Pull(context.Background(), PullRequest{Reference: addr + "/some/thing:v1"}, l.show); err != nil {
		t.Fatalf("%v\n%s", err, &l)
	}
	t.Log(&l)
	var again lines
	if err := s.Pull(context.Background(), PullRequest{Reference: addr + "/some/thing:v1"}, again.show); err != nil {
		t.Fatalf("%v\n%s", err, &l)
	}
	t.Log(&again)
}
