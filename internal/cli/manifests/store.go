// Package manifests has the commands that make manifest lists: `hezi manifest`.
//
// Lists are kept as Docker's client keeps them, so that both can work on one:
// a folder for each list and a file for each manifest in it, named after their
// references (github.com/docker/cli, cli/manifest/store). What is asked of
// registries, hezid asks: the client links no registry's client.
package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of what a list may hold, and of lists.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Manifest is one in a list, with the fields of Docker's files.
type Manifest struct {
	Ref        string // canonical
	Descriptor ocispec.Descriptor
	Raw        []byte `json:",omitempty"`
	// The manifest once more, for people; which one depends on its type.
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// newManifest is a manifest as it came from a registry.
func newManifest(ref string, d ocispec.Descriptor, raw []byte) (Manifest, error) {
	m := Manifest{Ref: ref, Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}, Raw: raw}
	switch d.MediaType {
	case dockerManifest:
		m.SchemaV2Manifest = raw
	case ocispec.MediaTypeImageManifest:
		m.OCIManifest = raw
	case dockerList, ocispec.MediaTypeImageIndex:
		return m, fmt.Errorf("%s is a manifest list", ref)
	default:
		return m, fmt.Errorf("%s is not a manifest: its media type is %q", ref, d.MediaType)
	}
	return m, nil
}

// body is the manifest's JSON, for people.
func (m Manifest) body() ([]byte, error) {
	switch {
	case m.SchemaV2Manifest != nil:
		return m.SchemaV2Manifest, nil
	case m.OCIManifest != nil:
		return m.OCIManifest, nil
	}
	return nil, fmt.Errorf("%s has no payload", m.Ref)
}

// store is the folder of all lists.
type store struct{ root string }

// list is a list's folder.
func (s store) list(list reference.Named) string {
	return filepath.Join(s.root, fileName(list.String()))
}

func fileName(ref string) string { return strings.NewReplacer(":", "-", "/", "_").Replace(ref) }

func notFound(ref reference.Named) error {
	return errdefs.ErrNotFound.WithMessage("No such manifest: " + ref.String())
}

// get reads one manifest of a list; the error is NotFound without it.
func (s store) get(list, manifest reference.Named) (Manifest, error) {
	return read(filepath.Join(s.list(list), fileName(manifest.String())), manifest)
}

func read(path string, ref reference.Named) (Manifest, error) {
	var m struct {
		Manifest
		Digest digest.Digest // of files that Docker wrote before 18.09
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return m.Manifest, notFound(ref)
	}
	if err != nil {
		return m.Manifest, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m.Manifest, fmt.Errorf("the manifest file %s cannot be read: %w: remove the list (hezi manifest rm) and create it again", path, err)
	}
	if m.Digest != "" || m.Descriptor.Digest == "" {
		return m.Manifest, fmt.Errorf("the manifest file %s is of another version of Docker's client: remove the list (hezi manifest rm) and create it again", path)
	}
	return m.Manifest, nil
}

// all reads a list; the error is NotFound without it.
func (s store) all(list reference.Named) ([]Manifest, error) {
	files, err := os.ReadDir(s.list(list))
	if errors.Is(err, os.ErrNotExist) {
		return nil, notFound(list)
	}
	if err != nil {
		return nil, err
	}
	out := []Manifest{}
	for _, f := range files {
		m, err := read(filepath.Join(s.list(list), f.Name()), list)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// save writes a manifest into a list, whole or not at all.
func (s store) save(list, manifest reference.Named, m Manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.list(list), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.root, ".new-") // not in the list: all that is in there is read
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.list(list), fileName(manifest.String())))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // err says what matters
	}
	return err
}

// remove deletes a list.
func (s store) remove(list reference.Named) error { return os.RemoveAll(s.list(list)) }
