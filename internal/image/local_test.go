package image

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"hezi/internal/image/hello"
	"hezi/internal/image/registry"
	"hezi/test/harness"
)

// saved is what `docker save` writes for an image under names.
func saved(t testing.TB, img v1.Image, names ...string) []byte {
	t.Helper()
	tags := map[name.Tag]v1.Image{}
	for _, n := range names {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(tags, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// small is an image whose content follows from text.
func small(t testing.TB, text string) v1.Image {
	t.Helper()
	a := archiveOf(t, dir("d"), file("d/text", text))
	return imageFrom(t, layerFrom(t, a, gzipped(t, a), types.DockerLayer))
}

func load(t testing.TB, s *Service, archive []byte) string {
	t.Helper()
	var out strings.Builder
	if err := s.Load(t.Context(), bytes.NewReader(archive), nil, true, func(m jsonstream.Message) { out.WriteString(m.Stream) }); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// left counts the blobs and the directories of layers on disk.
func left(t testing.TB, s *Service) (blobs, layers int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.root, "content", "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			blobs++
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir(filepath.Join(s.root, "layers", "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	return blobs, len(dirs)
}

func empty0(t testing.TB, s *Service) {
	t.Helper()
	if err := s.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, l := left(t, s); b != 0 || l != 0 {
		t.Errorf("%d blobs and %d layers are left", b, l)
	}
}

func remove(t testing.TB, s *Service, ref string, force bool) (untagged, deleted []string) {
	t.Helper()
	list, err := s.Remove(t.Context(), ref, RemoveOptions{Force: force})
	if err != nil {
		t.Fatalf("rmi %s: %v", ref, err)
	}
	for _, r := range list {
		if r.Untagged != "" {
			untagged = append(untagged, r.Untagged)
		}
		if r.Deleted != "" {
			deleted = append(deleted, r.Deleted)
		}
	}
	return untagged, deleted
}

func TestLoadUseRemove(t *testing.T) {
	s := open(t, registry.Config{})
	busybox, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	archive := saved(t, busybox, "busybox:latest", "example.org/tools/box:1")
	out := load(t, s, gzipped(t, archive))
	if !strings.Contains(out, "Loaded image: busybox:latest\n") || !strings.Contains(out, "Loaded image: example.org/tools/box:1\n") {
		t.Errorf("load said %q", out)
	}
	ctx := t.Context()
	s.inUse = func(context.Context, digest.Digest) (running, stopped []string) {
		return []string{"one"}, []string{"two"}
	}
	list, err := s.List(ctx, ListOptions{SharedSize: true, Manifests: true})
	s.inUse = func(context.Context, digest.Digest) (running, stopped []string) { return nil, nil }
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %d images", err, len(list))
	}
	i := list[0]
	if i.Labels == nil { // Docker's is never null
		t.Error("no labels")
	}
	if !slices.Equal(i.RepoTags, []string{"busybox:latest", "example.org/tools/box:1"}) || len(i.RepoDigests) != 2 || i.Size < 1<<20 || i.Containers != 2 || len(i.Manifests) != 1 || len(i.Manifests[0].ImageData.Containers) != 2 {
		t.Errorf("%+v", i)
	}
	hex := strings.TrimPrefix(i.ID, "sha256:")
	for _, ref := range []string{"busybox", "busybox:latest", "docker.io/library/busybox", i.ID, hex, hex[:12], "sha256:" + hex[:8], "busybox@" + i.ID, "busybox:other@" + i.ID} {
		img, err := s.Resolve(ctx, ref, nil)
		if err != nil || img.ID.String() != i.ID || len(img.Layers) != 1 {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for ref, want := range map[string]string{
		"alpine": "No such image: alpine:latest", "beef": "No such image: beef:latest", "sha256:beef": "No such image: sha256:beef",
		"other@" + i.ID: "No such image: other@" + i.ID, strings.Repeat("0", 64): "No such image: " + strings.Repeat("0", 64),
	} {
		if _, err := s.Resolve(ctx, ref, nil); !errdefs.IsNotFound(err) || err.Error() != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for ref, want := range map[string]string{"Busybox": "must be lowercase", "http://x/y": "without http://", "a b": "no spaces", "x:": "tag after", "": "empty"} {
		if _, err := s.Resolve(ctx, ref, nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "invalid reference format") {
			t.Errorf("%q: %v", ref, err)
		}
	}
	img, err := s.Resolve(ctx, "busybox", nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.RootFS(ctx, img)
	if err != nil || len(root.Lower) != 1 {
		t.Fatalf("%v %v", root, err)
	}
	if st, err := os.Stat(filepath.Join(root.Lower[0], "bin/busybox")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", st, err)
	}
	in, err := s.Inspect(ctx, "busybox", nil, true)
	if err != nil || in.ID != i.ID || in.Os != "linux" || len(in.RootFS.Layers) != 1 || in.Config == nil || in.Descriptor == nil || in.Metadata.LastTagTime.IsZero() {
		t.Errorf("%+v %v", in, err)
	}
	if h, err := s.History(ctx, "busybox", nil); err != nil || len(h) == 0 || h[0].ID != i.ID {
		t.Errorf("%+v %v", h, err)
	}
	if _, err := s.Remove(ctx, hex[:12], RemoveOptions{}); !errdefs.IsConflict(err) || err.Error() != "conflict: unable to delete "+hex[:12]+" (must be forced) - image is referenced in multiple repositories" {
		t.Errorf("%v", err)
	}
	if u, d := remove(t, s, "busybox", false); !slices.Equal(u, []string{"busybox:latest"}) || d != nil {
		t.Errorf("%v %v", u, d)
	}
	if u, d := remove(t, s, hex[:12], false); !slices.Equal(u, []string{"example.org/tools/box:1"}) || !slices.Equal(d, []string{i.ID}) {
		t.Errorf("%v %v", u, d)
	}
	empty0(t, s)
}

func TestBrokenArchivesLeaveNothing(t *testing.T) {
	s := open(t, registry.Config{})
	good := saved(t, small(t, noise(50_000)), "x:1")
	for what, archive := range map[string][]byte{
		"empty": {}, "no archive": []byte("hello, this is text"), "cut": good[:len(good)/2],
		"no manifest":  archiveOf(t, file("some", "file")),
		"bad manifest": archiveOf(t, file("manifest.json", `[{"Config":"../../etc/passwd","Layers":["x"]}]`)),
		"bad layout":   archiveOf(t, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("a", 64)+`","size":3}]}`)),
	} {
		err := s.Load(t.Context(), bytes.NewReader(archive), nil, true, nil)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "archive") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(good[:len(good)-2000])}, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	empty0(t, s)
}

func TestImport(t *testing.T) {
	s := open(t, registry.Config{})
	var id string
	body := gzipped(t, archiveOf(t, dir("etc"), file("etc/name", "imported"), entry{name: "hard", kind: '1', link: "etc/name"}))
	err := s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(body), Reference: "mine", Message: "by hand", Changes: []string{
		`CMD ["sh", "-c", "true"]`, `ENTRYPOINT top -b`, `ENV A=1 B="two words"`, `env A=3`, `EXPOSE 80 53/udp`, `LABEL a.b=c`, `USER nobody`, `VOLUME ["/data"]`,
		`WORKDIR /srv/`, `ONBUILD RUN true`, `STOPSIGNAL SIGUSR1`, `HEALTHCHECK --interval=5s --retries=2 CMD curl x`,
	}}, func(m jsonstream.Message) { id = m.Status })
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Inspect(t.Context(), "mine", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	c := in.Config
	if in.ID != id || in.Comment != "by hand" || !slices.Equal(c.Env, []string{"B=two words", "A=3"}) || !slices.Equal(c.Entrypoint, []string{"/bin/sh", "-c", "top -b"}) ||
		len(c.Cmd) != 3 || c.User != "nobody" || c.WorkingDir != "/srv" || c.StopSignal != "SIGUSR1" || c.Healthcheck.Retries != 2 || c.Healthcheck.Test[1] != "curl x" || len(c.OnBuild) != 1 {
		t.Errorf("%s: %+v %+v", id, in, c)
	}
	if _, ok := c.ExposedPorts["53/udp"]; !ok || len(c.ExposedPorts) != 2 || len(c.Volumes) != 1 || c.Labels["a.b"] != "c" {
		t.Errorf("%+v", c)
	}
	for name, pack := range map[string]string{"xz": "xz", "bzip2": "bzip2"} {
		cmd := exec.Command(pack, "-c")
		cmd.Stdin = bytes.NewReader(archiveOf(t, file("packed", name)))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", pack, err)
		}
		o := ImportRequest{Source: "-", Body: bytes.NewReader(out), Reference: name, Changes: []string{"EXPOSE 8000-8002", "WORKDIR a", "WORKDIR b"}}
		if err := s.Import(t.Context(), o, nil); err != nil {
			t.Fatal(err)
		}
		if in, err := s.Inspect(t.Context(), name, nil, false); err != nil || len(in.Config.ExposedPorts) != 3 || in.Config.WorkingDir != "/a/b" {
			t.Errorf("%+v %v", in.Config, err)
		}
		o.Body = bytes.NewReader(out[:len(out)-20])
		if err := s.Import(t.Context(), o, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s cut off: %v", name, err)
		}
		remove(t, s, name, false)
	}
	for _, bad := range []string{"RUN x", "CMD", "EXPOSE x", "STOPSIGNAL NONE", `ENV "a`, "HEALTHCHECK --what=1 NONE"} {
		err := s.Import(t.Context(), ImportRequest{Source: "-", Body: bytes.NewReader(body), Changes: []string{bad}}, nil)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "invalid change") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	remove(t, s, "mine", false)
	empty0(t, s)
}

func TestPinnedImagesStay(t *testing.T) {
	running, stopped := []string{}, []string{}
	s, err := Open(t.Context(), Options{Root: t.TempDir(), InUse: func(context.Context, digest.Digest) ([]string, []string) { return running, stopped }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	load(t, s, saved(t, small(t, "pinned"), "p:1"))
	img, err := s.Resolve(ctx, "p:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(ctx, img, "c1"); err != nil {
		t.Fatal(err)
	}
	id := img.ID.Encoded()[:12]
	stopped = []string{"0123456789abcdef"}
	conflict := func(ref string, force bool, want string) {
		t.Helper()
		if _, err := s.Remove(ctx, ref, RemoveOptions{Force: force}); !errdefs.IsConflict(err) || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
	conflict("p:1", false, `conflict: unable to remove repository reference "p:1" (must force) - container 0123456789ab is using its referenced image `+id)
	conflict(id, false, `conflict: unable to delete `+id+` (must be forced) - image is being used by stopped container 0123456789ab`)
	running, stopped = stopped, nil
	conflict(id, true, `conflict: unable to delete `+id+` (cannot be forced) - image is being used by running container 0123456789ab`)
	if u, d := remove(t, s, "p:1", true); len(u) != 1 || d != nil {
		t.Errorf("%v %v", u, d)
	}
	running = nil
	if list, _ := s.List(ctx, ListOptions{All: true}); len(list) != 0 {
		t.Errorf("a removed image is listed: %+v", list)
	}
	if err := s.CollectGarbage(ctx); err != nil {
		t.Fatal(err)
	}
	root, err := s.RootFS(ctx, img)
	if err != nil || !exists(root.Lower[0]) {
		t.Fatalf("the layers of a container went: %v", err)
	}
	// A new hezid: containers pin again, by what they remember.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(ctx, Options{Root: s.root}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Pin(ctx, &Image{ID: img.ID}, "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.CollectGarbage(ctx); err != nil || !exists(root.Lower[0]) {
		t.Fatalf("the layers of a container went: %v", err)
	}
	if err := s.Unpin(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	empty0(t, s)
	if err := s.Pin(ctx, img, "c2"); !errdefs.IsNotFound(err) {
		t.Errorf("a pin on an image that is gone: %v", err)
	}
}

func TestNamesMove(t *testing.T) {
	s := open(t, registry.Config{})
	ctx := t.Context()
	load(t, s, saved(t, small(t, "one"), "n:1"))
	one, err := s.Resolve(ctx, "n:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, saved(t, small(t, "two"), "n:1"))
	dangling, err := s.List(ctx, ListOptions{Filters: map[string]map[string]bool{"dangling": {"true": true}}})
	if err != nil || len(dangling) != 1 || dangling[0].ID != one.ID.String() || len(dangling[0].RepoTags) != 0 {
		t.Errorf("%+v %v", dangling, err)
	}
	if err := s.Tag(ctx, one.ID.String(), "kept"); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"UPPER": "must be lowercase", "x@" + one.ID.String(): "digest"} {
		if err := s.Tag(ctx, "kept", target); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if err := s.Tag(ctx, "absent", "x"); !errdefs.IsNotFound(err) || err.Error() != "No such image: absent:latest" {
		t.Errorf("%v", err)
	}
	for filter, n := range map[string]int{"dangling=true": 0, "reference=k*": 1, "reference=z*": 0, "label=x": 0, "label!=x": 2, "until=1h": 2} {
		key, value, _ := strings.Cut(strings.Replace(filter, "!=", "!:", 1), "=")
		if k, v, ok := strings.Cut(filter, "!="); ok {
			key, value = k+"!", v
		}
		list, err := s.List(ctx, ListOptions{Filters: map[string]map[string]bool{key: {value: true}}})
		if err != nil || len(list) != n {
			t.Errorf("%s: %d images, %v", filter, len(list), err)
		}
	}
	if _, err := s.List(ctx, ListOptions{Filters: map[string]map[string]bool{"x": {"y": true}}}); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "invalid filter 'x'") {
		t.Errorf("%v", err)
	}
	remove(t, s, "kept", false)
	remove(t, s, "n:1", false)
	empty0(t, s)
}

func TestRemoveWhileResolving(t *testing.T) {
	s := open(t, registry.Config{})
	ctx := t.Context()
	archive := saved(t, small(t, "race"), "r:1")
	for range 5 {
		load(t, s, archive)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				id := string(rune('a' + i))
				img, err := s.Resolve(ctx, "r:1", nil)
				if err == nil {
					err = s.Pin(ctx, img, id)
				}
				if errdefs.IsNotFound(err) {
					return
				}
				root, rerr := s.RootFS(ctx, img)
				if err != nil || rerr != nil || !exists(filepath.Join(root.Lower[0], "d/text")) {
					t.Errorf("a pinned image is not there: %v %v", err, rerr)
				}
				if err := s.Unpin(ctx, id); err != nil {
					t.Error(err)
				}
			})
		}
		group.Go(func() {
			if _, err := s.Remove(ctx, "r:1", RemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
		empty0(t, s)
	}
}

func TestHelloNeedsNoRegistry(t *testing.T) {
	s := open(t, registry.Config{})
	ctx := t.Context()
	if !helloBuilt() {
		if _, err := s.Resolve(ctx, hello.Name, nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "make build") {
			t.Errorf("%v", err)
		}
		return
	}
	var group sync.WaitGroup
	ids := make([]digest.Digest, 4)
	for i := range ids {
		group.Go(func() {
			img, err := s.Resolve(ctx, "hezi/hello", nil)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = img.ID
		})
	}
	group.Wait()
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("several images: %v", ids)
	}
	remove(t, s, hello.Name, false)
	empty0(t, s)
	img, err := s.Resolve(ctx, "hezi/hello:latest", nil)
	if err != nil || img.ID != ids[0] {
		t.Fatalf("%v, %s and %s", err, img.ID, ids[0])
	}
	root, err := s.RootFS(ctx, img)
	if err != nil || !exists(filepath.Join(root.Lower[0], "hello")) {
		t.Error(err)
	}
}

func TestHelloFollowsTheBuild(t *testing.T) {
	if !helloBuilt() {
		t.Fatal("hezi/hello is not built in: run `make build` first")
	}
	ctx := t.Context()
	for _, mine := range []bool{false, true} {
		s := open(t, registry.Config{})
		old := small(t, "an older build")
		c, err := old.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c = c.DeepCopy()
		c.History = []v1.History{{CreatedBy: builtIn}}
		if mine {
			c.History[0].CreatedBy = "me"
		}
		if old, err = mutate.ConfigFile(old, c); err != nil {
			t.Fatal(err)
		}
		load(t, s, saved(t, old, "hezi/hello:latest"))
		img, err := s.Resolve(ctx, "hezi/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		if kept := len(img.Config.Config.Entrypoint) == 0; kept != mine {
			t.Errorf("an image of the user's: %v, kept: %v", mine, kept)
		}
	}
}
