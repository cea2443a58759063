package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
	"hezi/test/harness"
)

func pushed(t *testing.T, s *Service, r PushRequest) *lines {
	t.Helper()
	var l lines
	if err := s.Push(t.Context(), r, l.show); err != nil {
		t.Fatalf("push %s: %v\n%s", r.Reference, err, &l)
	}
	return &l
}

func tagged(t *testing.T, s *Service, from string, to ...string) {
	t.Helper()
	for _, n := range to {
		if err := s.Tag(t.Context(), from, n); err != nil {
			t.Fatal(err)
		}
	}
}

// at is what a registry has.
func at(t *testing.T, ref string) *remote.Descriptor {
	t.Helper()
	n, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(n)
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	return d
}

// states are the last line of each layer, in order.
func (l *lines) states() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.all {
		if m.ID == "" {
			continue
		}
		if i := slices.IndexFunc(list, func(s string) bool { return strings.HasPrefix(s, m.ID+" ") }); i >= 0 {
			list[i] = m.ID + " " + m.Status
		} else {
			list = append(list, m.ID+" "+m.Status)
		}
	}
	return list
}

// aux are the messages for programs.
func (l *lines) aux(t *testing.T) (list []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.all {
		if m.Aux == nil {
			continue
		}
		var v map[string]any
		if err := json.Unmarshal(*m.Aux, &v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

func wantStates(t *testing.T, l *lines, img v1.Image, want string) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, y := range layers {
		d, err := y.Digest()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d.Hex[:12]+" "+want)
	}
	if got := l.states(); !slices.Equal(got, all) {
		t.Errorf("got  %v\nwant %v", got, all)
	}
}

func TestPush(t *testing.T) {
	addr := harness.Registry(t)
	s := open(t, registry.Config{})
	var mu sync.Mutex
	var events []string
	s.announce = func(_, action, id string, attributes map[string]string) {
		mu.Lock()
		defer mu.Unlock()
		if action == "push" {
			events = append(events, id+" "+attributes["name"])
		}
	}
	one, two := sharing(t)
	load(t, s, saved(t, one, "one:1"))
	load(t, s, saved(t, two, "two:1"))
	tagged(t, s, "one:1", addr+"/a/one:1", addr+"/a/one:2", addr+"/b/one:1")
	tagged(t, s, "two:1", addr+"/b/two:1")
	img, err := s.Resolve(t.Context(), "one:1", nil)
	if err != nil {
		t.Fatal(err)
	}

	l := pushed(t, s, PushRequest{Reference: addr + "/a/one:1"})
	wantStates(t, l, one, "Pushed")
	text := l.String()
	if end := fmt.Sprintf(": 1: digest: %s size: %d\n", img.ID, img.Manifest.Size); !strings.HasPrefix(text, ": The push refers to repository ["+addr+"/a/one]\n") || !strings.Contains(text, end) {
		t.Errorf("%s", text)
	}
	if a := l.aux(t); len(a) != 1 || a[0]["Tag"] != "1" || a[0]["Digest"] != img.ID.String() || a[0]["Size"] != float64(img.Manifest.Size) {
		t.Errorf("%v", a)
	}
	d := at(t, addr+"/a/one:1")
	if d.Digest.String() != img.ID.String() {
		t.Errorf("pushed %s as %s", img.ID, d.Digest)
	}
	got, err := d.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got, validate.Fast); err != nil {
		t.Error(err)
	}

	// What is there is not sent again, and what is beside is mounted.
	wantStates(t, pushed(t, s, PushRequest{Reference: addr + "/a/one:1"}), one, "Layer already exists")
	wantStates(t, pushed(t, s, PushRequest{Reference: addr + "/b/one:1"}), one, "Mounted from a/one")
	states := pushed(t, s, PushRequest{Reference: addr + "/b/two:1"}).states()
	if len(states) != 2 || !strings.Contains(states[0], " Mounted from ") || !strings.HasSuffix(states[1], " Pushed") {
		t.Errorf("%v", states)
	}
	// All tags of a repository.
	l = pushed(t, s, PushRequest{Reference: addr + "/a/one"})
	if text := l.String(); strings.Count(text, "The push refers to") != 1 || !strings.Contains(text, ": 1: digest: ") || !strings.Contains(text, ": 2: digest: ") {
		t.Errorf("%s", text)
	}
	at(t, addr+"/a/one:2")
	short := strings.ReplaceAll(strings.Join(events, ","), addr, "ADDR")
	if short != "ADDR/a/one:1 ADDR/a/one,ADDR/a/one:1 ADDR/a/one,ADDR/b/one:1 ADDR/b/one,ADDR/b/two:1 ADDR/b/two,ADDR/a/one:1 ADDR/a/one,ADDR/a/one:2 ADDR/a/one" {
		t.Errorf("%s", short)
	}
	in, err := s.Inspect(t.Context(), addr+"/a/one:1", nil, false)
	if err != nil || !slices.Contains(in.RepoDigests, addr+"/a/one@"+img.ID.String()) {
		t.Errorf("%v %v", in.RepoDigests, err)
	}
	for ref, want := range map[string]string{
		addr + "/nosuch:1": "tag does not exist: " + addr + "/nosuch:1",
		addr + "/nosuch":   "An image does not exist locally with the tag: " + addr + "/nosuch",
		addr + "/x@sha256:" + strings.Repeat("0", 64): "tag does not exist: ",
		"UPPER": "invalid reference format",
	} {
		if err := s.Push(t.Context(), PushRequest{Reference: ref}, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	noLeases(t, s)
}

// What a pull brings can be mounted by a later push to the same registry.
func TestPullNotesWhereFrom(t *testing.T) {
	addr := harness.Registry(t)
	img := small(t, "noted")
	harness.Push(t, addr, "from/here:1", img)
	s := open(t, registry.Config{})
	if err := s.Pull(t.Context(), PullRequest{Reference: addr + "/from/here:1"}, nil); err != nil {
		t.Fatal(err)
	}
	tagged(t, s, addr+"/from/here:1", addr+"/to/there:1")
	wantStates(t, pushed(t, s, PushRequest{Reference: addr + "/to/there:1"}), img, "Mounted from from/here")
}

// indexed pushes an index of amd64, arm64 and an attestation.
func indexed(t *testing.T, ref string) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: platformed(t, small(t, ref+arch), arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	to, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(to, index); err != nil {
		t.Fatal(err)
	}
	return index
}

func TestPushPlatforms(t *testing.T) {
	addr, elsewhere := harness.Registry(t), harness.Registry(t)
	ctx := t.Context()
	index := indexed(t, addr+"/multi:1")
	id, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	amd, arm := ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "arm64"}
	s := open(t, registry.Config{})
	if err := s.Pull(ctx, PullRequest{Reference: addr + "/multi:1", Platform: &amd}, nil); err != nil {
		t.Fatal(err)
	}
	here, err := s.Resolve(ctx, addr+"/multi:1", &amd)
	if err != nil {
		t.Fatal(err)
	}
	tagged(t, s, addr+"/multi:1", addr+"/multi:2", addr+"/other/multi:1", elsewhere+"/multi:1")

	// The registry has the rest: the index stays whole.
	l := pushed(t, s, PushRequest{Reference: addr + "/multi:2"})
	if got := at(t, addr+"/multi:2").Digest; got != id || len(l.aux(t)) != 1 {
		t.Errorf("%s became %s, %v", id, got, l.aux(t))
	}
	// It does not: the one platform that is here, and a note.
	for _, to := range []string{addr + "/other/multi:1", elsewhere + "/multi:1"} {
		l = pushed(t, s, PushRequest{Reference: to})
		if got := at(t, to).Digest.String(); got != here.Manifest.Digest.String() {
			t.Errorf("%s is %s", to, got)
		}
		var note auxprogress.ManifestPushedInsteadOfIndex
		for _, m := range l.all {
			if m.Aux != nil && strings.Contains(string(*m.Aux), "manifestPushedInsteadOfIndex") {
				if err := json.Unmarshal(*m.Aux, &note); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !note.ManifestPushedInsteadOfIndex || note.OriginalIndex.Digest.String() != id.String() || note.SelectedManifest.Digest != here.Manifest.Digest {
			t.Errorf("%+v", note)
		}
	}
	// A platform that is not here cannot be pushed.
	err = s.Push(ctx, PushRequest{Reference: elsewhere + "/multi:1", Platform: &arm}, nil)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform (linux/arm64)") {
		t.Error(err)
	}
	// All are here now.
	if err := s.Pull(ctx, PullRequest{Reference: addr + "/multi:1", Platform: &arm}, nil); err != nil {
		t.Fatal(err)
	}
	pushed(t, s, PushRequest{Reference: elsewhere + "/multi:1"})
	if got := at(t, elsewhere+"/multi:1").Digest; got != id {
		t.Errorf("%s became %s", id, got)
	}
	tagged(t, s, addr+"/multi:1", elsewhere+"/arm:1")
	pushed(t, s, PushRequest{Reference: elsewhere + "/arm:1", Platform: &arm})
	if d := at(t, elsewhere+"/arm:1"); d.MediaType.IsIndex() {
		t.Errorf("%s", d.MediaType)
	}
}

func TestPushWithoutBlobs(t *testing.T) {
	addr := harness.Registry(t)
	s := open(t, registry.Config{})
	one, _ := sharing(t)
	load(t, s, saved(t, one, "one:1"))
	tagged(t, s, "one:1", addr+"/one:1", addr+"/two:1")
	pushed(t, s, PushRequest{Reference: addr + "/one:1"})
	layers, err := one.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	dropBlob(t, s, d)
	wantStates(t, pushed(t, s, PushRequest{Reference: addr + "/two:1"}), one, "Mounted from one") // it is there
	elsewhere := harness.Registry(t)
	tagged(t, s, "one:1", elsewhere+"/one:1")
	var l lines
	err = s.Push(t.Context(), PushRequest{Reference: elsewhere + "/one:1"}, l.show)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), d.String()) || !strings.Contains(err.Error(), "pull the image again") {
		t.Error(err)
	}
	if a := l.aux(t); len(a) != 1 || a[0]["contentMissing"] != true {
		t.Errorf("%v", a)
	}
}

func TestForeignLayersAreNotPushed(t *testing.T) {
	addr := harness.Registry(t)
	s := open(t, registry.Config{})
	fake := newFake(t)
	a := archiveOf(t, file("f", "foreign"))
	layer := gzipped(t, a)
	foreign := foreignLayer{layerFrom(t, a, layer, types.DockerForeignLayer)}
	base := archiveOf(t, dir("d"))
	img, err := mutate.Append(imageFrom(t, layerFrom(t, base, gzipped(t, base), types.DockerLayer)), mutate.Addendum{Layer: foreign, URLs: []string{fake.url + "/v2/x/blobs/" + digestOf(layer)}})
	if err != nil {
		t.Fatal(err)
	}
	fake.push("x:1", imageFrom(t, layerFrom(t, a, layer, types.DockerLayer)))
	fake.push("withforeign:1", img)
	fake.pull(s, "withforeign:1")
	tagged(t, s, fake.addr+"/withforeign:1", addr+"/withforeign:1")
	states := pushed(t, s, PushRequest{Reference: addr + "/withforeign:1"}).states()
	if len(states) != 2 || !strings.HasSuffix(states[0], " Pushed") || !strings.HasSuffix(states[1], " Skipped foreign layer") {
		t.Errorf("%v", states)
	}
}

type foreignLayer struct{ v1.Layer }

func (foreignLayer) MediaType() (types.MediaType, error) { return types.DockerForeignLayer, nil }

func dropBlob(t *testing.T, s *Service, d v1.Hash) {
	t.Helper()
	if err := s.blobs.Delete(s.context(context.Background()), digestFrom(d)); err != nil {
		t.Fatal(err)
	}
}

func digestFrom(h v1.Hash) digest.Digest { return digest.Digest(h.String()) }
