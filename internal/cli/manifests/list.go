package manifests

import (
	"encoding/json"
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The fields of a list, in the order and with the indentation that Docker's
// client gives them: the same list has the same digest.
type (
	listBody struct {
		SchemaVersion int         `json:"schemaVersion"`
		MediaType     string      `json:"mediaType,omitempty"`
		Manifests     []listEntry `json:"manifests"`
	}
	listEntry struct {
		MediaType string        `json:"mediaType,omitempty"`
		Size      int64         `json:"size,omitempty"`
		Digest    digest.Digest `json:"digest,omitempty"`
		Platform  listPlatform  `json:"platform"`
	}
	listPlatform struct {
		Architecture string   `json:"architecture"`
		OS           string   `json:"os"`
		OSVersion    string   `json:"os.version,omitempty"`
		OSFeatures   []string `json:"os.features,omitempty"`
		Variant      string   `json:"variant,omitempty"`
	}
)

// listOf makes the list: an OCI index if its first manifest is OCI's.
func listOf(target reference.Named, list []Manifest) (mediaType string, raw []byte, err error) {
	body := listBody{SchemaVersion: 2, MediaType: dockerList, Manifests: []listEntry{}}
	for i, m := range list {
		ref, err := reference.ParseNormalizedNamed(m.Ref)
		if err != nil {
			return "", nil, fmt.Errorf("the manifest %q in the list: %w", m.Ref, err)
		}
		if from, to := reference.Domain(ref), reference.Domain(target); from != to {
			return "", nil, fmt.Errorf("cannot use source images from a different registry than the target image: %s != %s", from, to)
		}
		if err := m.Descriptor.Digest.Validate(); err != nil {
			return "", nil, fmt.Errorf("digest parse of image %q failed: %w", m.Ref, err)
		}
		if i == 0 && m.Descriptor.MediaType == ocispec.MediaTypeImageManifest {
			body.MediaType = ocispec.MediaTypeImageIndex
		}
		e := listEntry{MediaType: m.Descriptor.MediaType, Size: m.Descriptor.Size, Digest: m.Descriptor.Digest}
		if p := m.Descriptor.Platform; p != nil {
			e.Platform = listPlatform{Architecture: p.Architecture, OS: p.OS, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures, Variant: p.Variant}
		}
		body.Manifests = append(body.Manifests, e)
	}
	raw, err = json.MarshalIndent(&body, "", "   ")
	return body.MediaType, raw, err
}

// known says whether a list may name a system; Docker's client takes the same.
func known(p ocispec.Platform) bool {
	switch p.OS {
	case "linux":
		switch p.Architecture {
		case "386", "amd64", "arm", "arm64", "loong64", "ppc64le", "mips64", "mips64le", "riscv64", "s390x":
			return true
		}
	case "darwin":
		return p.Architecture == "386" || p.Architecture == "amd64" || p.Architecture == "arm" || p.Architecture == "arm64"
	case "freebsd", "netbsd", "openbsd":
		return p.Architecture == "386" || p.Architecture == "amd64" || p.Architecture == "arm"
	case "windows", "plan9":
		return p.Architecture == "386" || p.Architecture == "amd64"
	case "dragonfly", "solaris":
		return p.Architecture == "amd64"
	}
	return false
}
