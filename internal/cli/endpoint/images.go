package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
)

// Detail is how much of an image is asked for.
type Detail string

const (
	AllOfIt Detail = ""
	// Brief is ID, RepoTags, Size, Containers and Manifests.
	Brief Detail = "1"
	// Row has Content and Used instead of the Manifests. Who sends the Manifests leaves these out.
	Row Detail = "row"
)

// Images lists images, and hands over one after the other as they come: a list
// of thousands is never in memory as a whole. The next one takes the place of
// the last; its strings, and lists of strings, can be kept.
//
// An engine that is not Hezi, or older, sends more than what is asked for.
func (c *Connection) Images(ctx context.Context, o client.ImageListOptions, how Detail, each func(*Listed) error) error {
	query := url.Values{}
	if len(o.Filters) > 0 {
		text, err := json.Marshal(o.Filters)
		if err != nil {
			return err
		}
		query.Set("filters", string(text))
	}
	for name, on := range map[string]bool{
		"all":         o.All,
		"shared-size": o.SharedSize && versions.GreaterThanOrEqualTo(c.ClientVersion(), "1.42"),
		"manifests":   o.Manifests && versions.GreaterThanOrEqualTo(c.ClientVersion(), "1.47"),
	} {
		if on {
			query.Set(name, "1")
		}
	}
	header := http.Header{}
	if how != AllOfIt {
		header.Set("Hezi-Brief", string(how))
	}
	resp, err := c.Call(ctx, http.MethodGet, "/images/json", query, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("read the list of images: %w", err)
	}
	var one Listed
	for dec.More() {
		one.reset()
		if err := dec.Decode(&one); err != nil {
			return fmt.Errorf("read the list of images: %w", err)
		}
		if err := each(&one); err != nil {
			return err
		}
	}
	return nil
}

// Listed is what hezi shows of an image.Summary. The rest (labels, descriptors)
// is skipped, which costs much less than to make it.
type Listed struct {
	ID          string `json:"Id"`
	RepoTags    []string
	RepoDigests json.RawMessage // few want it
	Created     int64           // seconds since 1970
	Size        int64           // bytes, as are those below
	SharedSize  int64
	Containers  int64 // -1 where that is not known
	Manifests   []ListedManifest
	LastUsed    int64 // seconds since 1970, 0 where that is not known

	Content int64 // bytes of blobs, of a Row
	Used    bool  // by a container, of a Row
}

// ListedManifest is one of the images of several platforms.
type ListedManifest struct {
	ID        string
	Available bool
	Kind      image.ManifestKind
	Size      struct{ Content, Total int64 }
	ImageData struct {
		Platform   struct{ Architecture, OS, Variant string }
		Containers []string
	}
}

// reset keeps what can be filled again.
func (l *Listed) reset() {
	clear(l.Manifests)
	*l = Listed{RepoDigests: l.RepoDigests[:0], Manifests: l.Manifests[:0]}
}

// Summary is the image without its manifests.
func (l *Listed) Summary() (image.Summary, error) {
	s := image.Summary{ID: l.ID, RepoTags: l.RepoTags, Created: l.Created, Size: l.Size, SharedSize: l.SharedSize, Containers: l.Containers}
	if len(l.RepoDigests) > 0 {
		if err := json.Unmarshal(l.RepoDigests, &s.RepoDigests); err != nil {
			return s, fmt.Errorf("read the digests of image %s: %w", l.ID, err)
		}
	}
	return s, nil
}
