// Package schema1 reads images as registries had them before 2016 (Docker
// Image manifest version 2, schema 1) and makes their configs as of today.
// Signatures are not verified: nobody knows the keys any more, and the digest
// says what was asked for.
package schema1

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	mediaType = "application/vnd.docker.distribution.manifest.v1"
	maxLayers = 500
	// EmptyLayer is the diff id of an archive of nothing: layers of old
	// images that changed nothing have it.
	EmptyLayer = digest.Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
)

// Is says whether a media type is that of such a manifest, signed or not.
func Is(kind string) bool { return kind == mediaType+"+json" || kind == mediaType+"+prettyjws" }

// Payload is what a manifest's digest is of: without its signatures, as they
// say that it was before they were added (JSON web signatures in Docker's
// "pretty" form). A manifest without signatures is its own payload.
func Payload(body []byte) []byte {
	var signed struct {
		Signatures []struct {
			Protected string `json:"protected"`
		} `json:"signatures"`
	}
	if json.Unmarshal(body, &signed) != nil || len(signed.Signatures) == 0 {
		return body
	}
	var form struct {
		Length int    `json:"formatLength"`
		Tail   string `json:"formatTail"`
	}
	protected, err := decode(signed.Signatures[0].Protected)
	if err != nil || json.Unmarshal(protected, &form) != nil || form.Length <= 0 || form.Length > len(body) {
		return body
	}
	tail, err := decode(form.Tail)
	if err != nil {
		return body
	}
	return append(slices.Clone(body[:form.Length]), tail...)
}

func decode(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

// Manifest is what such a manifest says.
type Manifest struct {
	architecture string
	steps        []step // the lowest first
	top          map[string]json.RawMessage
}

// step is one entry of the history.
type step struct {
	blob digest.Digest
	v1   v1Image
}

// v1Image is what of an image of version 1 is needed.
type v1Image struct {
	ID              string          `json:"id"`
	Parent          string          `json:"parent"`
	Created         json.RawMessage `json:"created"`
	Author          string          `json:"author"`
	Comment         string          `json:"comment"`
	ThrowAway       bool            `json:"throwaway"`
	ContainerConfig struct {
		Cmd []string `json:"Cmd"`
	} `json:"container_config"`
}

// Parse reads a manifest. Its errors are InvalidArgument.
func Parse(body []byte) (*Manifest, error) {
	bad := func(format string, args ...any) (*Manifest, error) {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the manifest of schema 1 is broken: " + fmt.Sprintf(format, args...))
	}
	var raw struct {
		SchemaVersion int    `json:"schemaVersion"`
		Architecture  string `json:"architecture"`
		FSLayers      []struct {
			BlobSum digest.Digest `json:"blobSum"`
		} `json:"fsLayers"`
		History []struct {
			V1Compatibility string `json:"v1Compatibility"`
		} `json:"history"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return bad("%v", err)
	}
	switch n := len(raw.FSLayers); {
	case raw.SchemaVersion != 1:
		return bad("its schema is %d", raw.SchemaVersion)
	case n == 0 || n != len(raw.History):
		return bad("it has %d layers and %d entries of history", n, len(raw.History))
	case n > maxLayers:
		return bad("it has %d layers; at most %d are taken", n, maxLayers)
	}
	m := &Manifest{architecture: raw.Architecture}
	for i := len(raw.History) - 1; i >= 0; i-- {
		s := step{blob: raw.FSLayers[i].BlobSum}
		if err := s.blob.Validate(); err != nil || s.blob.Algorithm() != digest.SHA256 {
			return bad("layer %q has no digest of sha256", s.blob)
		}
		if err := json.Unmarshal([]byte(raw.History[i].V1Compatibility), &s.v1); err != nil {
			return bad("entry %d of its history: %v", i, err)
		}
		if n := len(m.steps); n > 0 {
			below := m.steps[n-1].v1.ID
			if s.v1.ID != "" && s.v1.ID == below { // some old clients wrote one twice
				m.steps = m.steps[:n-1]
			} else if s.v1.Parent != below {
				return bad("entry %d of its history is not the child of the one below", i)
			}
		}
		m.steps = append(m.steps, s)
	}
	if err := json.Unmarshal([]byte(raw.History[0].V1Compatibility), &m.top); err != nil || m.top == nil {
		return bad("the first entry of its history is no config")
	}
	return m, nil
}

// Layers are the blobs that hold layers, the lowest first. One may be there
// twice.
func (m *Manifest) Layers() []digest.Digest {
	var list []digest.Digest
	for _, s := range m.steps {
		if !s.v1.ThrowAway {
			list = append(list, s.blob)
		}
	}
	return list
}

// history is an entry of a config's history.
type history struct {
	Created    json.RawMessage `json:"created,omitempty"`
	Author     string          `json:"author,omitempty"`
	CreatedBy  string          `json:"created_by,omitempty"`
	Comment    string          `json:"comment,omitempty"`
	EmptyLayer bool            `json:"empty_layer,omitempty"`
}

// Config makes the image's config. diffID gives the digest of each of Layers,
// uncompressed. kept are those of Layers that change something.
func (m *Manifest) Config(diffID func(blob digest.Digest) digest.Digest) (config []byte, kept []digest.Digest, err error) {
	var steps []history
	diffIDs := []digest.Digest{}
	for _, s := range m.steps {
		h := history{Created: s.v1.Created, Author: s.v1.Author, Comment: s.v1.Comment, CreatedBy: strings.Join(s.v1.ContainerConfig.Cmd, " "), EmptyLayer: true}
		if !s.v1.ThrowAway {
			if d := diffID(s.blob); d != EmptyLayer {
				h.EmptyLayer = false
				diffIDs, kept = append(diffIDs, d), append(kept, s.blob)
			}
		}
		if bytes.Equal(h.Created, []byte("null")) {
			h.Created = nil
		}
		steps = append(steps, h)
	}
	c := make(map[string]any, len(m.top))
	for k, v := range m.top {
		switch k {
		case "id", "parent", "parent_id", "layer_id", "Size", "throwaway":
		default:
			c[k] = v
		}
	}
	for k, v := range map[string]string{"os": "linux", "architecture": m.architecture} {
		if own := m.top[k]; own == nil || string(own) == `""` || string(own) == "null" {
			c[k] = v
		}
	}
	if c["architecture"] == "" {
		c["architecture"] = runtime.GOARCH
	}
	c["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffIDs}
	c["history"] = steps
	config, err = json.Marshal(c)
	return config, kept, err
}
