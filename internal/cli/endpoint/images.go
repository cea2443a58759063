package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
)

// Images lists images, and when each was last used, by its id, where the engine
// tells. It reads one image after the other as they come: a list of thousands
// is not held twice, nor waited for as a whole.
func (c *Connection) Images(ctx context.Context, o client.ImageListOptions) ([]image.Summary, map[string]time.Time, error) {
	query := url.Values{}
	if len(o.Filters) > 0 {
		text, err := json.Marshal(o.Filters)
		if err != nil {
			return nil, nil, err
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
	resp, err := c.Call(ctx, http.MethodGet, "/images/json", query, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	if _, err := dec.Token(); err != nil {
		return nil, nil, fmt.Errorf("read the list of images: %w", err)
	}
	var list []image.Summary
	used := map[string]time.Time{}
	for dec.More() {
		var one listed
		if err := dec.Decode(&one); err != nil {
			return nil, nil, fmt.Errorf("read the list of images: %w", err)
		}
		list = append(list, one.summary())
		if one.LastUsed > 0 {
			used[one.ID] = time.Unix(one.LastUsed, 0)
		}
	}
	return list, used, nil
}

// listed is what hezi shows of an image.Summary. The rest (labels, descriptors)
// is skipped, which costs much less than to make it.
type listed struct {
	ID          string `json:"Id"`
	RepoTags    []string
	RepoDigests []string
	Created     int64
	Size        int64
	SharedSize  int64
	Containers  int64
	Manifests   []struct {
		ID        string
		Available bool
		Kind      image.ManifestKind
		Size      struct{ Content, Total int64 }
		ImageData *struct {
			Platform   struct{ Architecture, OS, Variant string }
			Containers []string
			Size       struct{ Unpacked int64 }
		}
	}
	LastUsed int64
}

func (l *listed) summary() image.Summary {
	s := image.Summary{ID: l.ID, RepoTags: l.RepoTags, RepoDigests: l.RepoDigests, Created: l.Created, Size: l.Size, SharedSize: l.SharedSize, Containers: l.Containers}
	if len(l.Manifests) > 0 {
		s.Manifests = make([]image.ManifestSummary, len(l.Manifests))
	}
	for i, m := range l.Manifests {
		to := &s.Manifests[i]
		to.ID, to.Available, to.Kind, to.Size.Content, to.Size.Total = m.ID, m.Available, m.Kind, m.Size.Content, m.Size.Total
		if m.ImageData != nil {
			to.ImageData = &image.ImageProperties{Containers: m.ImageData.Containers}
			to.ImageData.Platform.Architecture, to.ImageData.Platform.OS, to.ImageData.Platform.Variant = m.ImageData.Platform.Architecture, m.ImageData.Platform.OS, m.ImageData.Platform.Variant
			to.ImageData.Size.Unpacked = m.ImageData.Size.Unpacked
		}
	}
	return s
}
