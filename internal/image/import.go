package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/google/uuid"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/archive"
	"hezi/internal/image/changes"
	"hezi/internal/image/pack"
	"hezi/internal/image/unpack"
)

// Import makes an image of one layer from a tar archive, plain or compressed.
func (s *Service) Import(ctx context.Context, r ImportRequest, show Progress) error {
	var named reference.Named
	if r.Reference != "" {
		var err error
		if named, err = parseName(r.Reference); err != nil {
			return err
		}
		if _, digested := named.(reference.Digested); digested {
			return errdefs.ErrInvalidArgument.WithMessage("cannot import digest reference: give a name and a tag")
		}
	}
	config := dockerspec.DockerOCIImage{}
	config.Platform = platforms.Normalize(platforms.DefaultSpec())
	if r.Platform != nil {
		config.Platform = platforms.Normalize(*r.Platform)
	}
	if err := changes.Apply(&config.Config, r.Changes); err != nil {
		return err
	}
	body := r.Body
	if r.Source != "-" {
		if !strings.Contains(r.Source, "://") { // as Docker takes it
			r.Source = "http://" + r.Source
		}
		resp, err := download(ctx, r.Source)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		d := newDisplay(show)
		defer d.close()
		d.say("", "Downloading from "+r.Source)
		w := d.layer("")
		body = &counter{r: resp.Body, w: w, step: step{status: statusImporting, total: max(0, resp.ContentLength)}}
		show = d.send
	}
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		release()
		if !done {
			s.collectLater()
		}
	}()
	blob, diffID, err := s.writeLayer(lctx, body)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	comment := r.Message
	if comment == "" {
		comment = "Imported from " + r.Source
	}
	config.Created = &now
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}
	config.History = []ocispec.History{{Created: &now, Comment: comment}}
	target, err := s.assemble(lctx, config, []ocispec.Descriptor{blob})
	if err != nil {
		return err
	}
	if named != nil {
		err = s.setName(lctx, named.String(), target)
	} else {
		err = s.setDangling(lctx, target)
	}
	if err != nil {
		return err
	}
	done = true
	say(show, jsonstream.Message{Status: target.Digest.String()})
	s.publish("import", target.Digest.String(), target.Digest.String(), nil)
	return nil
}

// download opens a URL of an archive.
func download(ctx context.Context, source string) (*http.Response, error) {
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot import from %q: write an http or https address, the path of a file, or - for standard input", source))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("cannot import from %s: %v", u.Redacted(), errors.Unwrap(err)))
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot import from %s: the server answered %s", u.Redacted(), resp.Status))
	}
	return resp, nil
}

// writeLayer stores an archive as a layer, once it has been read to its end as
// one: as it is if it is packed by gzip or zstd, else by gzip, as Docker does.
func (s *depot) writeLayer(ctx context.Context, r io.Reader) (d ocispec.Descriptor, diffID digest.Digest, err error) {
	w, err := content.OpenWriter(ctx, s.blobs, content.WithRef("hezi-import-"+uuid.NewString()))
	if err != nil {
		return d, "", fmt.Errorf("store the layer: %w", s.diskError(err))
	}
	defer w.Close()
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return d, "", notATar(err)
	}
	out := &storing{w: w, s: s}
	if d.MediaType = archive.LayerType(magic); d.MediaType == ocispec.MediaTypeImageLayer {
		d.MediaType = ocispec.MediaTypeImageLayerGzip
		diffID, err = packed(in, out)
	} else {
		diffID, err = keepPacked(in, out)
	}
	switch {
	case ctx.Err() != nil:
		return d, "", ctx.Err()
	case out.err != nil:
		return d, "", fmt.Errorf("store the layer: %w", out.err)
	case err != nil:
		return d, "", notATar(err)
	}
	st, err := w.Status()
	if err != nil {
		return d, "", fmt.Errorf("store the layer: %w", err)
	}
	d.Digest, d.Size = w.Digest(), st.Offset
	if err := w.Commit(ctx, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return d, "", fmt.Errorf("store the layer: %w", s.diskError(err))
	}
	return d, diffID, nil
}

// storing remembers why the store took no more, which is not the archive's fault.
type storing struct {
	w   io.Writer
	s   *depot
	err error
}

func (t *storing) Write(b []byte) (int, error) {
	n, err := t.w.Write(b)
	if err != nil {
		t.err = t.s.diskError(err)
	}
	return n, err
}

// keepPacked reads a packed archive to its end and stores it as it is.
func keepPacked(in io.Reader, out io.Writer) (digest.Digest, error) {
	raw := io.TeeReader(in, out)
	plain, err := unpack.Decompress(raw)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	sum := digest.SHA256.Digester()
	if err := readTar(io.TeeReader(plain, sum.Hash())); err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, raw)
	return sum.Digest(), err
}

// packed reads an archive to its end and stores it packed by gzip; its digest is
// made and it is compressed beside the reading.
func packed(in io.Reader, out io.Writer) (digest.Digest, error) {
	plain, err := unpack.Decompress(in)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	z := pack.NewGzip(out)
	sum := newBackgroundHash(digest.SHA256.Hash())
	err = readTar(io.TeeReader(bufio.NewReaderSize(plain, chunkSize), io.MultiWriter(sum, z)))
	if zerr := z.Close(); err == nil {
		err = zerr
	}
	return digest.NewDigest(digest.SHA256, sum.end()), err
}

// readTar reads an archive to its end and what follows it.
func readTar(r io.Reader) error {
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		_, err := t.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r)
			if n == 0 && err == nil {
				return errors.New("it is empty")
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}

func notATar(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the archive cannot be imported: %v; it must be a tar archive, plain or compressed by gzip, bzip2, xz or zstd", err))
}
