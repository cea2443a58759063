package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/google/uuid"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/archive"
	"hezi/internal/image/unpack"
)

// Load takes the images of an archive that `docker save` or an OCI tool wrote,
// plain or compressed. With platforms, only those of each image are taken, and
// one that is missing is an error. Nothing of an archive that is broken stays.
// Unless quiet, show is told how far it is.
func (s *Service) Load(ctx context.Context, r io.Reader, wanted []ocispec.Platform, quiet bool, show Progress) error {
	watching := show
	if quiet {
		watching = nil
	}
	d := newDisplay(watching)
	defer d.close()
	plain, err := unpack.Decompress(&counter{r: r, w: d.layer("archive"), step: step{status: statusReading}})
	if err != nil {
		return notAnArchive(err)
	}
	defer plain.Close()
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer func() {
		release()
		s.collectLater() // archives have blobs that no image names
	}()
	l := newLoading(&s.depot, wanted, d)
	list, err := l.read(lctx, plain)
	if err != nil {
		return err
	}
	for _, i := range list {
		if err := l.finish(lctx, i.Target); err != nil {
			return err
		}
	}
	d.close() // what follows comes after it
	for _, i := range list {
		if err := s.nameLoaded(lctx, i, show); err != nil {
			return err
		}
	}
	return nil
}

// loading is one archive on its way into the store.
type loading struct {
	s       *depot
	wanted  []ocispec.Platform
	display *display
	// id begins the names of what is being written: archives have the same
	// file names, and what one left half written must never begin another.
	id      string
	buf     []byte
	commits sync.WaitGroup
	slots   chan struct{}  // one for each commit under way
	ahead   sync.WaitGroup // images that are unpacked while the archive arrives

	mu      sync.Mutex // guards all below
	n       int        // files so far
	err     error      // of the first commit that failed
	ended   bool       // all is there
	arrived map[digest.Digest]chan struct{}
	watches map[digest.Digest]watch
}

// maxCommits is how many files are made durable while more arrive.
const maxCommits = 4

func newLoading(s *depot, wanted []ocispec.Platform, d *display) *loading {
	return &loading{
		s: s, wanted: wanted, display: d, id: uuid.NewString(), buf: make([]byte, chunkSize), slots: make(chan struct{}, maxCommits),
		arrived: map[digest.Digest]chan struct{}{}, watches: map[digest.Digest]watch{},
	}
}

var _ archive.Depot = (*loading)(nil)

// read takes the archive to its end.
func (l *loading) read(ctx context.Context, plain io.Reader) ([]archive.Image, error) {
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := archive.Read(ctx, plain, l, func(list []archive.Image) {
		l.ahead.Go(func() {
			for _, i := range list {
				// What fails here fails again below, and says so there.
				if err := l.unpackAhead(actx, i.Target); err != nil {
					l.s.log.Debug("an image cannot be unpacked while its archive arrives", "image", i.Target.Digest, "error", err)
				}
			}
		})
	})
	l.commits.Wait()
	if err != nil {
		cancel()
	}
	l.end()
	l.ahead.Wait()
	var full *told
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &full): // not the archive's fault
		return nil, err
	case err != nil:
		return nil, notAnArchive(err)
	case l.err != nil:
		return nil, l.err
	case len(list) == 0:
		return nil, errdefs.ErrInvalidArgument.WithMessage("the archive has no images")
	}
	return list, nil
}

// Put stores one file of the archive.
func (l *loading) Put(ctx context.Context, want digest.Digest, size int64, r io.Reader) (digest.Digest, error) {
	ref := l.name()
	w, err := l.s.blobs.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Digest: want, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		if _, err := io.CopyBuffer(io.Discard, r, l.buf); err != nil {
			return "", err
		}
		l.arrive(want)
		return want, nil
	}
	if err != nil {
		return "", storeError(l.s, err)
	}
	drop := func(err error) (digest.Digest, error) {
		w.Close()
		if aerr := l.s.blobs.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			l.s.log.Warn("drop a broken file of an archive", "error", aerr)
		}
		return "", err
	}
	if err := l.copy(ctx, w, r); err != nil {
		return drop(err)
	}
	got := w.Digest()
	if want != "" && got != want {
		return drop(fmt.Errorf("its content has digest %s: the archive is damaged", got))
	}
	l.slots <- struct{}{}
	l.commits.Go(func() {
		defer func() { <-l.slots }()
		if err := w.Commit(ctx, size, got); err != nil && !errdefs.IsAlreadyExists(err) {
			l.fail(storeError(l.s, err))
			return
		}
		l.arrive(got)
	})
	return got, nil
}

func storeError(s *depot, err error) error {
	return &told{text: fmt.Sprintf("store a file of the archive: %v", s.diskError(err)), causes: []error{s.diskError(err)}}
}

func (l *loading) copy(ctx context.Context, w io.Writer, r io.Reader) error {
	for {
		if err := l.failed(ctx); err != nil {
			return err
		}
		n, err := r.Read(l.buf)
		if n > 0 {
			if _, werr := w.Write(l.buf[:n]); werr != nil {
				return storeError(l.s, werr)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Make stores a manifest that the archive does not have.
func (l *loading) Make(ctx context.Context, d ocispec.Descriptor, body []byte) error {
	err := content.WriteBlob(ctx, l.s.blobs, l.name(), bytes.NewReader(body), d)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return storeError(l.s, err)
	}
	return nil
}

// name is of what is written next.
func (l *loading) name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return fmt.Sprintf("load-%s-%d", l.id, l.n)
}

func (l *loading) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

func (l *loading) failed(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	return ctx.Err()
}

// gate is closed when a blob is there, or will not come any more.
func (l *loading) gate(d digest.Digest) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gateLocked(d)
}

func (l *loading) gateLocked(d digest.Digest) chan struct{} {
	c, ok := l.arrived[d]
	if !ok {
		c = make(chan struct{})
		l.arrived[d] = c
		if l.ended {
			close(c)
		}
	}
	return c
}

// arrive says that a blob is there.
func (l *loading) arrive(d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.gateLocked(d)
	select {
	case <-c:
	default:
		close(c)
	}
}

// end says that no more blobs come.
func (l *loading) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, c := range l.arrived {
		select {
		case <-c:
		default:
			close(c)
		}
	}
}

// await waits for a blob; the error is NotFound if the archive ended without it.
func (l *loading) await(ctx context.Context, d digest.Digest) error {
	if _, err := l.s.blobs.Info(ctx, d); err == nil {
		return nil
	}
	select {
	case <-l.gate(d):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err := l.s.blobs.Info(ctx, d)
	return err
}

// awaitJSON waits for a manifest, an index or a config, and reads it.
func (l *loading) awaitJSON(ctx context.Context, d ocispec.Descriptor, v any) error {
	if err := l.await(ctx, d.Digest); err != nil {
		return err
	}
	return l.s.readJSON(ctx, d, v)
}

// unpackAhead unpacks an image while the rest of its archive arrives: the
// layers that are there side by side, the others as they come.
func (l *loading) unpackAhead(ctx context.Context, target ocispec.Descriptor) error {
	list := []ocispec.Descriptor{target}
	if images.IsIndexType(target.MediaType) {
		var index ocispec.Index
		if err := l.awaitJSON(ctx, target, &index); err != nil {
			return err
		}
		list = l.likely(index.Manifests)
	}
	for _, d := range list {
		var m ocispec.Manifest
		if err := l.awaitJSON(ctx, d, &m); err != nil {
			return err
		}
		var c ocispec.Image
		if err := l.awaitJSON(ctx, m.Config, &c); err != nil {
			return err
		}
		if !l.wants(c.Platform) {
			continue
		}
		layers, err := layersOf(m, c.RootFS.DiffIDs)
		if err != nil {
			return err
		}
		bring := func(ctx context.Context, y layer, _ tap, _ watch) error { return l.await(ctx, y.blob.Digest) }
		if err := l.s.build(ctx, m.Config, layers, bring, func(i int) watch { return l.watch(layers[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// likely are the manifests of an index that are unpacked when all is there, as
// far as the index itself can tell.
func (l *loading) likely(list []ocispec.Descriptor) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, d := range list {
		if images.IsManifestType(d.MediaType) && d.Platform != nil && l.wants(*d.Platform) {
			out = append(out, d)
		}
	}
	return out
}

// wants says whether a platform is to be unpacked: the host's if none is said.
func (l *loading) wants(p ocispec.Platform) bool {
	if len(l.wanted) == 0 {
		return platforms.Default().Match(p)
	}
	return platforms.Any(l.wanted...).Match(p)
}

// watch shows a layer; once it is done, it stays so.
func (l *loading) watch(y layer) watch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watches[y.blob.Digest]; w != nil {
		return w
	}
	w := l.display.layer(shortID(y.blob.Digest))
	var mu sync.Mutex
	done := false
	l.watches[y.blob.Digest] = func(st step) {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return
		}
		done = st == (step{}) || st.status == statusComplete
		if st.status == statusComplete {
			st.status = statusLoaded
		}
		w(st)
	}
	return l.watches[y.blob.Digest]
}

// finish makes an image of what the archive had: its blobs hold each other,
// and the wanted platforms are unpacked. Of an index that has others, too, they
// are let go.
func (l *loading) finish(ctx context.Context, d ocispec.Descriptor) error {
	in, err := l.s.read(ctx, &catalog{}, d)
	if err != nil {
		return notAnArchive(err)
	}
	if !slices.ContainsFunc(in.variants, func(v *variant) bool { return v.here }) {
		return notAnArchive(fmt.Errorf("of its image %s no platform is whole", d.Digest))
	}
	var chosen []*variant
	for i := range l.wanted {
		v, err := in.choose(d.Digest.String(), &l.wanted[i])
		if err != nil {
			return err
		}
		chosen = append(chosen, v)
	}
	keep := func(c ocispec.Descriptor) bool {
		return len(chosen) == 0 || slices.ContainsFunc(chosen, func(v *variant) bool { return v.desc.Digest == c.Digest })
	}
	if err := l.s.tie(ctx, d, keep, 0); err != nil {
		return notAnArchive(err)
	}
	if len(chosen) == 0 {
		if v, err := in.choose(d.Digest.String(), nil); err == nil { // if not, it is unpacked when it is used
			chosen = append(chosen, v)
		}
	}
	for _, v := range chosen {
		for _, b := range v.manifest.Layers {
			if ok, err := l.s.hasBlob(ctx, b.Digest); !ok && err == nil {
				return notAnArchive(fmt.Errorf("it lacks layer %s of its image %s", b.Digest, d.Digest))
			}
		}
		if err := l.s.unpack(ctx, v.desc, &v.platform, l.watch); err != nil {
			return err
		}
	}
	return nil
}

// tie lets each blob hold those that it names, for the collector; of an index
// those manifests that keep says. One that is not here is no error.
func (s *depot) tie(ctx context.Context, d ocispec.Descriptor, keep func(ocispec.Descriptor) bool, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("more than %d indexes one within the other", maxDepth)
	}
	if _, err := s.readSmall(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	children := func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		list, err := images.Children(ctx, s.blobs, d)
		if err == nil {
			err = checkDescriptors(list)
		}
		if images.IsIndexType(d.MediaType) {
			list = slices.DeleteFunc(list, func(c ocispec.Descriptor) bool { return !keep(c) })
		}
		return list, err
	}
	list, err := images.SetChildrenLabels(s.blobs, children)(ctx, d)
	if errdefs.IsNotFound(err) && depth > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range list {
		if !images.IsIndexType(c.MediaType) && !images.IsManifestType(c.MediaType) {
			continue
		}
		if err := s.tie(ctx, c, keep, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func notAnArchive(err error) error {
	text := "the archive cannot be loaded: " + err.Error()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		text = "the archive cannot be loaded: it ends too early"
	}
	return errdefs.ErrInvalidArgument.WithMessage(text + "; it must be what `docker save`, `skopeo copy` or an OCI layout tool wrote (for the files of a container write import)")
}

// nameLoaded gives a loaded image the name that the archive has for it.
func (s *Service) nameLoaded(ctx context.Context, i archive.Image, show Progress) error {
	id := i.Target.Digest.String()
	named, err := parseName(i.Name)
	if err != nil || i.Name == "" {
		if err := s.setDangling(ctx, i.Target); err != nil {
			return err
		}
		say(show, jsonstream.Message{Stream: "Loaded image ID: " + id + "\n"})
	} else {
		if err := s.setName(ctx, named.String(), i.Target); err != nil {
			return err
		}
		say(show, jsonstream.Message{Stream: fmt.Sprintf("Loaded image: %s\n", reference.FamiliarString(named))})
	}
	s.publish("load", id, id, nil)
	return nil
}

func say(show Progress, m jsonstream.Message) {
	if show != nil {
		show(m)
	}
}
