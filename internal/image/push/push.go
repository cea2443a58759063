// Package push brings images that are here to a registry: first blobs, side by
// side, then manifests, each after all that it names. What the registry has is
// not sent again; what another of its repositories is known to have is mounted
// from there (OCI distribution specification, "Mounting a blob from another
// repository").
package push

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hezi/internal/image/registry"
)

// The states of a layer in Docker's words; clients draw by them.
const (
	statusPreparing = "Preparing"
	statusWaiting   = "Waiting"
	statusPushing   = "Pushing"
	statusPushed    = "Pushed"
	statusExists    = "Layer already exists"
	statusThere     = "Already exists" // of what is no layer
	statusMounted   = "Mounted from "
	statusForeign   = "Skipped foreign layer"
	statusMissing   = "Unavailable"
)

const (
	maxManifest  = 8 << 20 // bytes
	maxDepth     = 3       // of indexes within indexes
	maxQuestions = 8       // blobs that are asked about at once
)

// Watch is told how far a blob is; total is 0 where there is nothing to count.
type Watch func(status string, current, total int64)

// Image is one image on its way to one repository.
type Image struct {
	// Blobs is what is here.
	Blobs content.InfoReaderProvider
	To    *registry.Repository
	By    *registry.Pusher
	// Name of the repository, canonical.
	Name reference.Named
	// Show begins to show a blob.
	Show func(d ocispec.Descriptor) Watch
	// Wait waits before another try, and shows that.
	Wait func(ctx context.Context, d time.Duration, w Watch) error
	// Share does work unless another push has the same under way: then it shows that
	// one's progress, and asks ready at its end. ready is asked first, too.
	Share func(ctx context.Context, key string, w Watch, ready func(context.Context) (bool, error), work func(context.Context, Watch) error) error

	target  ocispec.Descriptor
	blobs   []ocispec.Descriptor
	bodies  []manifest // each after all that it names
	watches map[digest.Digest]Watch
}

type manifest struct {
	desc ocispec.Descriptor
	body []byte
}

// Missing is content that is neither here nor at the registry.
type Missing struct {
	Desc ocispec.Descriptor
	Of   digest.Digest // what names it
}

func (m *Missing) Error() string {
	return fmt.Sprintf("%s, which %s names, is neither here nor at the registry: pull the image again, for all its platforms, or push one of them with --platform", m.Desc.Digest, m.Of)
}

// Unwrap makes it NotFound.
func (*Missing) Unwrap() error { return errdefs.ErrNotFound }

// Plan finds out what target consists of. The error is a *Missing if a part of
// it can come from nowhere; then nothing was sent.
func (i *Image) Plan(ctx context.Context, target ocispec.Descriptor) error {
	i.target, i.blobs, i.bodies = target, nil, nil
	if i.watches == nil {
		i.watches = map[digest.Digest]Watch{}
	}
	return i.collect(ctx, target, target.Digest, 0)
}

// collect adds a manifest or an index with all that it names.
func (i *Image) collect(ctx context.Context, d ocispec.Descriptor, of digest.Digest, depth int) error {
	if depth > maxDepth {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s: more than %d indexes one within the other", i.target.Digest, maxDepth))
	}
	if slices.ContainsFunc(i.bodies, func(m manifest) bool { return m.desc.Digest == d.Digest }) {
		return nil
	}
	body, err := i.read(ctx, d)
	if errdefs.IsNotFound(err) {
		ok, err := i.By.HasManifest(ctx, d.Digest)
		if err == nil && !ok {
			err = &Missing{Desc: d, Of: of}
		}
		return err // of what the registry has, it has the parts
	}
	if err != nil {
		return err
	}
	children, err := childrenOf(d, body)
	if err != nil {
		return err
	}
	for _, c := range children {
		if images.IsManifestType(c.MediaType) || images.IsIndexType(c.MediaType) {
			err = i.collect(ctx, c, d.Digest, depth+1)
		} else {
			err = i.blob(ctx, c, d.Digest)
		}
		if err != nil {
			return err
		}
	}
	i.bodies = append(i.bodies, manifest{desc: d, body: body})
	return nil
}

// childrenOf reads what a manifest or an index names.
func childrenOf(d ocispec.Descriptor, body []byte) ([]ocispec.Descriptor, error) {
	var m struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s is no JSON: %v", d.Digest, err))
	}
	list := m.Manifests
	if !images.IsIndexType(d.MediaType) {
		list = m.Layers
		if m.Config != nil {
			list = append(list, *m.Config)
		}
	}
	for _, c := range list {
		if err := c.Digest.Validate(); err != nil || c.Size < 0 {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s names %q with %d bytes", d.Digest, c.Digest, c.Size))
		}
	}
	return list, nil
}

// read reads a manifest or an index.
func (i *Image) read(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	ra, err := i.Blobs.ReaderAt(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", d.Digest, err)
	}
	defer ra.Close()
	if ra.Size() > maxManifest {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s has %d bytes, more than registries take", d.Digest, ra.Size()))
	}
	body := make([]byte, ra.Size())
	if n, err := ra.ReadAt(body, 0); n < len(body) {
		return nil, fmt.Errorf("read manifest %s: %w", d.Digest, err)
	}
	return body, nil
}

// blob adds a layer, a config or another blob.
func (i *Image) blob(ctx context.Context, d ocispec.Descriptor, of digest.Digest) error {
	if slices.ContainsFunc(i.blobs, func(have ocispec.Descriptor) bool { return have.Digest == d.Digest }) {
		return nil
	}
	w := i.watch(d)
	if !foreign(d) {
		if _, err := i.Blobs.Info(ctx, d.Digest); errdefs.IsNotFound(err) {
			if err := i.elsewhere(ctx, d, of, w); err != nil {
				return err
			}
			return nil
		} else if err != nil {
			return fmt.Errorf("read blob %s: %w", d.Digest, err)
		}
	}
	i.blobs = append(i.blobs, d)
	return nil
}

// watch begins to show what is large; manifests and configs are not shown.
func (i *Image) watch(d ocispec.Descriptor) Watch {
	if w := i.watches[d.Digest]; w != nil {
		return w
	}
	w := Watch(func(string, int64, int64) {})
	if images.IsLayerType(d.MediaType) || !images.IsConfigType(d.MediaType) {
		w = i.Show(d)
		w(statusPreparing, 0, 0)
	}
	i.watches[d.Digest] = w
	return w
}

// foreign says whether a layer is to be fetched from an address of its own.
func foreign(d ocispec.Descriptor) bool {
	return images.IsNonDistributable(d.MediaType) && len(d.URLs) > 0
}

// elsewhere looks for a blob that is not here at the registry.
func (i *Image) elsewhere(ctx context.Context, d ocispec.Descriptor, of digest.Digest, w Watch) error {
	ok, err := i.By.Has(ctx, d.Digest)
	if err != nil {
		return err
	}
	if ok {
		w(exists(d), 0, 0)
		return nil
	}
	from, err := i.By.Mount(ctx, d.Digest, append(i.sources(ctx, i.target.Digest), i.sources(ctx, of)...))
	if err != nil {
		return err
	}
	if from == "" {
		w(statusMissing, 0, 0)
		return &Missing{Desc: d, Of: of}
	}
	w(statusMounted+from, 0, 0)
	return nil
}

func exists(d ocispec.Descriptor) string {
	if images.IsLayerType(d.MediaType) {
		return statusExists
	}
	return statusThere
}

// sources are the repositories of the registry that are known to have a blob.
// The notes on blobs are containerd's, which have no port.
func (i *Image) sources(ctx context.Context, d digest.Digest) []string {
	info, err := i.Blobs.Info(ctx, d)
	if err != nil {
		return nil // it is sent instead
	}
	return slices.DeleteFunc(noted(info, i.Name), func(path string) bool { return path == "" || path == reference.Path(i.Name) })
}

// noted are the repositories of a name's registry that have a blob.
func noted(info content.Info, name reference.Named) []string {
	host := url.URL{Host: reference.Domain(name)}
	return strings.Split(info.Labels[labels.LabelDistributionSource+"."+host.Hostname()], ",")
}

// Noted says whether it is recorded that a repository has a blob.
func Noted(info content.Info, name reference.Named) bool {
	return slices.Contains(noted(info, name), reference.Path(name))
}

// Run sends what was planned, and stores it under tag unless that is "".
func (i *Image) Run(ctx context.Context, tag string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxQuestions)
	for _, d := range i.blobs {
		g.Go(func() error { return i.send(gctx, d) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for n, m := range i.bodies {
		t := ""
		if n == len(i.bodies)-1 {
			t = tag
		}
		if err := i.By.Manifest(ctx, m.desc, m.body, t); err != nil {
			return err
		}
	}
	return nil
}

// send brings one blob there.
func (i *Image) send(ctx context.Context, d ocispec.Descriptor) error {
	w := i.watches[d.Digest]
	if foreign(d) {
		w(statusForeign, 0, 0)
		return nil
	}
	shared := false
	ready := func(ctx context.Context) (bool, error) {
		ok, err := i.By.Has(ctx, d.Digest)
		if ok && !shared {
			w(exists(d), 0, 0)
		}
		shared = true
		return ok, err
	}
	return i.Share(ctx, i.Name.Name()+" "+d.Digest.String(), w, ready, func(ctx context.Context, w Watch) error { return i.upload(ctx, d, w) })
}

// upload brings one blob there that the repository lacks.
func (i *Image) upload(ctx context.Context, d ocispec.Descriptor, w Watch) error {
	release, err := i.To.UploadSlot(ctx, func() { w(statusWaiting, 0, 0) })
	if err != nil {
		return err
	}
	defer release()
	w(statusPushing, 0, d.Size)
	open := func(offset int64) (io.ReadCloser, error) {
		ra, err := i.Blobs.ReaderAt(ctx, d)
		if err != nil {
			return nil, err
		}
		return readCloser{io.NewSectionReader(ra, offset, ra.Size()-offset), ra}, nil
	}
	from, err := i.By.Upload(ctx, d, i.sources(ctx, d.Digest), open,
		func(sent int64) { w(statusPushing, sent, d.Size) },
		func(ctx context.Context, pause time.Duration) error { return i.Wait(ctx, pause, w) })
	switch {
	case err != nil:
		return err
	case from != "":
		w(statusMounted+from, 0, 0)
	default:
		w(statusPushed, 0, 0)
	}
	return nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// Note records on blobs that a repository has them, for later mounts from
// there. What is not here is passed over.
func Note(ctx context.Context, blobs content.Manager, name reference.Named, list []ocispec.Descriptor) error {
	note, err := docker.AppendDistributionSourceLabel(blobs, name.Name())
	if err != nil {
		return fmt.Errorf("note where the image is, too: %w", err)
	}
	for _, d := range list {
		if _, err := note(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("note where blob %s is, too: %w", d.Digest, err)
		}
	}
	return nil
}

// Parts are all that was planned, for Note.
func (i *Image) Parts() []ocispec.Descriptor {
	out := slices.Clone(i.blobs)
	for _, m := range i.bodies {
		out = append(out, m.desc)
	}
	return out
}
