package format

import (
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
)

// ImageHeaders are the columns of `images`.
var ImageHeaders = Headers{
	"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
	"Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE", "LastUsed": "LAST USED", "LastUsedSince": "LAST USED",
}

const (
	none        = "<none>"
	imageTable  = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}"
	imageDigest = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}"
)

// ImageSource completes the format of `images`.
func ImageSource(source string, quiet, digests bool) string {
	switch {
	case (source == "" || source == "table") && quiet:
		return "{{.ID}}"
	case (source == "" || source == "table") && digests:
		return imageDigest
	case source == "" || source == "table":
		return imageTable
	case source == "raw" && quiet:
		return "image_id: {{.ID}}"
	case source == "raw":
		digest := ""
		if digests {
			digest = "digest: {{.Digest}}\n"
		}
		return "repository: {{ .Repository }}\ntag: {{.Tag}}\n" + digest + "image_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
	case strings.HasPrefix(source, "table") && digests && !strings.Contains(source, "{{.Digest}}"):
		return source + "\t{{.Digest}}"
	}
	return source
}

// Image is a row of `images`: one name of an image.
type Image struct {
	i                 *image.Summary
	trunc             bool
	now               time.Time
	repo, tag, digest string
	used              time.Time // zero: not known
}

// IsDangling says whether an image has no name.
func IsDangling(tags []string) bool {
	return len(tags) == 0 || len(tags) == 1 && tags[0] == "<none>:<none>"
}

// Images makes the rows of `images`, one for each name; digests asks for a row
// for each digest too.
func Images(list []image.Summary, trunc, digests bool, source string, now time.Time) []*Image {
	var rows []*Image
	for n := range list {
		i := &list[n]
		row := func(repo, tag, digest string) {
			rows = append(rows, &Image{i: i, trunc: trunc, now: now, repo: repo, tag: tag, digest: digest})
		}
		if len(i.RepoTags) == 0 && len(i.RepoDigests) == 0 || IsDangling(i.RepoTags) && (len(i.RepoDigests) == 0 || i.RepoDigests[0] == "<none>@<none>") {
			row(none, none, none)
			continue
		}
		named(i, digests, digests || strings.Contains(source, "{{.Digest}}"), row)
	}
	return rows
}

// named gives every tag of an image with its digests, and then the digests
// that have no tag.
func named(i *image.Summary, digestRows, needDigest bool, row func(repo, tag, digest string)) {
	type name struct{ repo, value string }
	var tags, digests []name
	for _, s := range i.RepoTags {
		if ref, err := reference.ParseNormalizedNamed(s); err == nil {
			if t, ok := ref.(reference.NamedTagged); ok {
				tags = append(tags, name{reference.FamiliarName(ref), t.Tag()})
			}
		}
	}
	for _, s := range i.RepoDigests {
		if ref, err := reference.ParseNormalizedNamed(s); err == nil {
			if c, ok := ref.(reference.Canonical); ok {
				digests = append(digests, name{reference.FamiliarName(ref), c.Digest().String()})
			}
		}
	}
	used := map[string]bool{}
	for _, t := range tags {
		used[t.repo] = true
		shown := false
		for _, d := range digests {
			if needDigest && d.repo == t.repo {
				row(t.repo, t.value, d.value)
				shown = true
			}
		}
		if !shown {
			row(t.repo, t.value, none)
		}
	}
	for _, d := range digests {
		if used[d.repo] {
			continue
		}
		if digestRows {
			row(d.repo, none, d.value)
		} else {
			used[d.repo] = true // once
			row(d.repo, none, "")
		}
	}
}

// MarshalJSON prints all fields.
func (i *Image) MarshalJSON() ([]byte, error) { return Fields(i) }

// ID is the identifier.
func (i *Image) ID() string { return shownID(i.i.ID, i.trunc) }

// Repository is the name without its tag.
func (i *Image) Repository() string { return i.repo }

// Tag is the tag.
func (i *Image) Tag() string { return i.tag }

// Digest is the digest under which a registry knows it.
func (i *Image) Digest() string { return i.digest }

// CreatedSince is how long ago it was made, or nothing where that is not known.
func (i *Image) CreatedSince() string {
	if i.i.Created <= 0 {
		return ""
	}
	return Ago(i.now, i.i.Created)
}

// CreatedAt is when it was made.
func (i *Image) CreatedAt() string { return time.Unix(i.i.Created, 0).String() }

// Size is its size on disk.
func (i *Image) Size() string { return units.HumanSizeWithPrecision(float64(i.i.Size), 3) }

// SetLastUsed tells rows when images were last used (seconds since 1970, 0
// where that is not known), by their ids.
func SetLastUsed(rows []*Image, used map[string]int64) {
	for _, r := range rows {
		if at := used[r.i.ID]; at > 0 {
			r.used = time.Unix(at, 0)
		}
	}
}

// LastUsed is when a container of it was last made, started or entered, or it
// was pulled. Only Hezi tells.
func (i *Image) LastUsed() string {
	if i.used.IsZero() {
		return "N/A"
	}
	return i.used.String()
}

// LastUsedSince is how long ago that was.
func (i *Image) LastUsedSince() string {
	if i.used.IsZero() {
		return "N/A"
	}
	return Ago(i.now, i.used.Unix())
}

// Containers counts the containers made of it.
func (i *Image) Containers() string { return count(i.i.Containers) }

// SharedSize is what it shares with other images.
func (i *Image) SharedSize() string { return size(i.i.SharedSize) }

// UniqueSize is what it has for itself.
func (i *Image) UniqueSize() string {
	if i.i.Size == -1 || i.i.SharedSize == -1 {
		return "N/A"
	}
	return units.HumanSize(float64(i.i.Size - i.i.SharedSize))
}

func count(n int64) string {
	if n == -1 {
		return "N/A"
	}
	return strconv.FormatInt(n, 10)
}

func size(n int64) string {
	if n == -1 {
		return "N/A"
	}
	return units.HumanSize(float64(n))
}

// HistoryHeaders are the columns of `history`.
var HistoryHeaders = Headers{"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT"}

// HistorySource completes the format of `history`.
func HistorySource(source string, quiet, human bool) string {
	switch {
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.ID}}"
	case !human:
		return "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
	}
	return "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
}

// Step is a row of `history`.
type Step struct {
	h            image.HistoryResponseItem
	trunc, human bool
	now          time.Time
}

// Steps makes the rows of `history`.
func Steps(list []image.HistoryResponseItem, trunc, human bool, now time.Time) []*Step {
	rows := make([]*Step, len(list))
	for i, h := range list {
		rows[i] = &Step{h: h, trunc: trunc, human: human, now: now}
	}
	return rows
}

// MarshalJSON prints all fields.
func (s *Step) MarshalJSON() ([]byte, error) { return Fields(s) }

// ID is the image that the step made, or <missing>.
func (s *Step) ID() string { return shownID(s.h.ID, s.trunc) }

// CreatedAt is when the step was made.
func (s *Step) CreatedAt() string { return time.Unix(s.h.Created, 0).Format(time.RFC3339) }

// CreatedSince is how long ago the step was made; images that can be built
// again bit by bit have a time near the epoch, which says nothing.
func (s *Step) CreatedSince() string {
	if !s.human {
		return s.CreatedAt()
	}
	if s.h.Created <= time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix() {
		return "N/A"
	}
	return Ago(s.now, s.h.Created)
}

// CreatedBy is the command of the step.
func (s *Step) CreatedBy() string {
	by := strings.ReplaceAll(s.h.CreatedBy, "\t", " ")
	if s.trunc {
		return Ellipsis(by, 45)
	}
	return by
}

// Size is what the step added.
func (s *Step) Size() string {
	if s.human {
		return units.HumanSizeWithPrecision(float64(s.h.Size), 3)
	}
	return strconv.FormatInt(s.h.Size, 10)
}

// Comment is the step's comment.
func (s *Step) Comment() string { return s.h.Comment }
