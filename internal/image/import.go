package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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

	"hezi/internal/image/changes"
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
	config.Platform = platforms.DefaultSpec()
	config.Platform.Variant = ""
	if r.Platform != nil {
		config.Platform = platforms.Normalize(*r.Platform)
	}
	if err := changes.Apply(&config.Config, r.Changes); err != nil {
		return err
	}
	body := r.Body
	if r.Source != "-" {
		rc, err := download(ctx, r.Source)
		if err != nil {
			return err
		}
		defer rc.Close()
		say(show, jsonstream.Message{Status: "Downloading from " + r.Source})
		body = rc
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
	blob, err := s.writeLayer(lctx, body)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	comment := r.Message
	if comment == "" {
		comment = "Imported from " + r.Source
	}
	config.Created = &now
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{blob.Digest}}
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
func download(ctx context.Context, source string) (io.ReadCloser, error) {
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
	return resp.Body, nil
}

// writeLayer stores an archive uncompressed, once it has been read to its end as one.
func (s *depot) writeLayer(ctx context.Context, r io.Reader) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	plain, err := unpack.Decompress(r)
	if err != nil {
		return none, notATar(err)
	}
	defer plain.Close()
	w, err := content.OpenWriter(ctx, s.blobs, content.WithRef("hezi-import-"+uuid.NewString()))
	if err != nil {
		return none, fmt.Errorf("store the layer: %w", err)
	}
	defer w.Close()
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := readTar(pr)
		pr.CloseWithError(err)
		checked <- err
	}()
	n, err := io.Copy(io.MultiWriter(w, pw), plain)
	pw.CloseWithError(err)
	if terr := <-checked; terr != nil && err == nil || errors.Is(err, terr) && terr != nil {
		return none, notATar(terr)
	}
	if err != nil {
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		return none, notATar(err)
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: w.Digest(), Size: n}
	if err := w.Commit(ctx, n, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return none, fmt.Errorf("store the layer: %w", err)
	}
	return d, nil
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
