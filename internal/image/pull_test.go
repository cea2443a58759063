package image

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	index := v1.ImageIndex(empty.Index)
	images := map[string]v1.Image{}
	for _, arch := range []string{"amd64", "arm64"} {
		one, two := archiveOf(t, file("arch", arch)), archiveOf(t, dir("d"), file("d/both", noise(400_000)))
		img := imageFrom(t,
			layerFrom(t, two, zstded(t, two), types.OCILayerZStd),
			layerFrom(t, one, gzipped(t, one), types.DockerLayer),
		)
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c = c.DeepCopy()
		c.Architecture = arch
		if img, err = mutate.ConfigFile(img, c); err != nil {
			t.Fatal(err)
		}
		images[arch] = img
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	tag, err := name.ParseReference(addr + "/some/thing:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	s := open(t, registry.Config{})
	for _, arch := range []string{"amd64", "arm64"} {
		r := PullRequest{Reference: addr + "/some/thing:v1", Platform: &ocispec.Platform{OS: "linux", Architecture: arch}}
		var first, again lines
		if err := s.Pull(context.Background(), r, first.show); err != nil {
			t.Fatalf("%v\n%s", err, &first)
		}
		within(t, s, images[arch], func(root string) {
			if got := tree(t, root); !strings.HasPrefix(got, "arch="+arch+"\nd/\nd/both=") {
				t.Errorf("got %.60q", got)
			}
		})
		wantLines(t, &first, images[arch], "Pull complete", "Downloaded newer image for "+addr+"/some/thing:v1")
		if err := s.Pull(context.Background(), r, again.show); err != nil {
			t.Fatalf("%v\n%s", err, &again)
		}
		wantLines(t, &again, images[arch], "Already exists", "Image is up to date for "+addr+"/some/thing:v1")
	}
	for ref, want := range map[string]string{
		"/some/thing:no": "manifest for " + addr + "/some/thing:no not found: manifest unknown: manifest unknown: check the name and the tag",
		"/no/thing:v1":   "manifest for " + addr + "/no/thing:v1 not found: manifest unknown: manifest unknown: check the name and the tag",
	} {
		if err := s.Pull(context.Background(), PullRequest{Reference: addr + ref}, nil); !errdefs.IsNotFound(err) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// wantLines checks what Docker's clients look for: first which tag of what,
// one final state for each layer (a layer pulled for another platform is
// there already), then the digest and the status.
func wantLines(t *testing.T, l *lines, img v1.Image, state, status string) {
	t.Helper()
	got := l.String()
	if !strings.HasPrefix(got, "v1: Pulling from some/thing\n") || !strings.Contains(got, "\n: Digest: sha256:") || !strings.HasSuffix(got, "\n: Status: "+status+"\n") {
		t.Errorf("got\n%s", got)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, d.Hex[:12]+": "+state+"\n") {
		t.Errorf("layer %s is not %q:\n%s", d.Hex[:12], state, got)
	}
}

func TestProgressIsOrderedAndRare(t *testing.T) {
	var got []string
	d := newDisplay(func(m jsonstream.Message) {
		s := m.ID + " " + m.Status
		if m.Progress != nil && m.Progress.Total > 0 {
			s += fmt.Sprintf(" %d/%d", m.Progress.Current, m.Progress.Total)
		}
		got = append(got, s)
	})
	now := time.Unix(0, 0)
	d.now = func() time.Time { return now }
	w := d.layer("x")
	w(step{status: statusPulling})
	for i := range int64(101) {
		now = now.Add(10 * time.Millisecond)
		w(step{status: statusDownloading, current: i, total: 100})
		drained(d)
	}
	w(step{status: statusDownloaded})
	w(step{status: statusComplete})
	w(step{})
	d.layer("y")(step{})
	d.close()
	want := "[x Pulling fs layer x Downloading 0/100 x Downloading 10/100 x Downloading 20/100 x Downloading 30/100 x Downloading 40/100" +
		" x Downloading 50/100 x Downloading 60/100 x Downloading 70/100 x Downloading 80/100 x Downloading 90/100 x Downloading 100/100" +
		" x Download complete x Pull complete y Already exists]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

// drained waits until the client has been sent what there is.
func drained(d *display) {
	for {
		d.mu.Lock()
		n := len(d.lines)
		d.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func TestASlowClientHoldsUpNobody(t *testing.T) {
	reg := newFake(t)
	reg.push("x:1", imageOf(t, []entry{file("big", noise(8<<20))}, []entry{file("b", "1")}))
	s := open(t, registry.Config{})
	hold := make(chan struct{})
	slow := make(chan error, 1)
	var got lines
	go func() {
		slow <- s.Pull(context.Background(), PullRequest{Reference: reg.addr + "/x:1"}, func(m jsonstream.Message) {
			<-hold
			got.show(m)
		})
	}()
	for len(reg.asked("", "/blobs/")) == 0 {
		time.Sleep(time.Millisecond)
	}
	reg.pull(s, "x:1") // shares the slow one's downloads
	close(hold)
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	if n := len(got.all); n > 40 {
		t.Errorf("%d lines waited for the client", n)
	}
	if last := got.all[len(got.all)-1].Status; !strings.HasPrefix(last, "Status: Downloaded newer image") {
		t.Errorf("the last line is %q", last)
	}
}
