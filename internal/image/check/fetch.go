package check

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	registrytypes "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"hezi/internal/image/registry"
	"hezi/internal/image/sweep"
)

// Fetcher fetches blobs that are bad from the registries that they came from.
type Fetcher struct {
	Registries *registry.Client
	Blobs      content.Store
	Sweep      *sweep.Store
	Auths      map[string]registrytypes.AuthConfig // by registry
	// Put takes the file of a blob that the metadata knows, Adopt of one that
	// it does not.
	Put   func(path string, d ocispec.Descriptor) error
	Adopt func(ctx context.Context, path string, d ocispec.Descriptor) error
}

// Fetch asks the repositories that the blob or its images came from.
func (f *Fetcher) Fetch(ctx context.Context, d ocispec.Descriptor, names []string) (from string, err error) {
	info, err := f.Blobs.Info(ctx, d.Digest)
	known := err == nil
	file, err := f.Sweep.Temporary("blob")
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name()) // unless it was put in its place
	defer file.Close()
	var errs []error
	for _, named := range sources(info.Labels, names) {
		repo := f.Registries.Repository(named, registry.RepositoryOptions{Auth: f.auth(named)})
		err := fetchFile(ctx, repo, d, file)
		if err == nil {
			if known {
				err = f.Put(file.Name(), d)
			} else {
				err = f.Adopt(ctx, file.Name(), d)
			}
			return reference.FamiliarName(named), err
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("no name says which registry it is from"))
	}
	return "", errors.Join(errs...)
}

// auth gives the credentials for a registry, nil without any.
func (f *Fetcher) auth(named reference.Named) *registrytypes.AuthConfig {
	host := reference.Domain(named)
	keys := []string{host, "https://" + host}
	if host == "docker.io" {
		keys = append(keys, "https://index.docker.io/v1/", "index.docker.io")
	}
	for _, k := range keys {
		if a, ok := f.Auths[k]; ok {
			return &a
		}
	}
	return nil
}

// sources are the repositories to ask, each once: those that the blob is known
// to be from, then those of the images' names.
func sources(labels map[string]string, names []string) (list []reference.Named) {
	add := func(s string) {
		named, err := reference.ParseNormalizedNamed(s)
		if err != nil || reference.IsNameOnly(named) && !strings.Contains(s, "/") {
			return // an id
		}
		named = reference.TrimNamed(named)
		if !slices.ContainsFunc(list, func(n reference.Named) bool { return n.Name() == named.Name() }) {
			list = append(list, named)
		}
	}
	for k, v := range labels {
		if host, ok := strings.CutPrefix(k, "containerd.io/distribution.source."); ok {
			for repository := range strings.SplitSeq(v, ",") {
				add(host + "/" + repository)
			}
		}
	}
	for _, n := range names {
		add(n)
	}
	return list
}

// fetchFile writes a verified blob to f, and syncs it.
func fetchFile(ctx context.Context, repo *registry.Repository, d ocispec.Descriptor, f *os.File) error {
	for n := 1; ; n++ {
		err := attempt(ctx, repo, d, f)
		if err == nil {
			return f.Sync()
		}
		wait, ok := repo.Again(err, n)
		if !ok || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func attempt(ctx context.Context, repo *registry.Repository, d ocispec.Descriptor, f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType) {
		body, _, err := repo.Manifest(ctx, d)
		if err == nil {
			_, err = f.Write(body)
		}
		return err
	}
	b, err := repo.Blob(ctx, d, 0)
	if err != nil {
		return err
	}
	defer b.Close()
	sum := d.Digest.Algorithm().Digester()
	n, err := io.Copy(io.MultiWriter(f, sum.Hash()), io.LimitReader(b, d.Size+1))
	if err == nil && n < d.Size {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	if err != nil {
		return repo.Cut(b, err)
	}
	if got := sum.Digest(); got != d.Digest {
		err, _ := repo.Wrong(b, d, got)
		return err
	}
	return nil
}
