package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Change is one difference of a tree from its records.
type Change struct {
	Path string
	What string // what is to be said after the path: "is missing"
}

// Compare calls report with every difference of the tree below dir from its
// records, in their order.
func Compare(ctx context.Context, dir string, records io.Reader, pace Pace, report func(Change)) error {
	c := comparison{r: NewReader(records), report: report}
	if err := c.next(); err != nil {
		return err
	}
	if err := Walk(ctx, dir, pace, c.take); err != nil {
		return err
	}
	for c.want != nil {
		if err := c.missing(); err != nil {
			return err
		}
	}
	return nil
}

type comparison struct {
	r      *Reader
	want   *Entry // the next that should come; nil after the last
	report func(Change)
}

func (c *comparison) next() (err error) {
	if c.want, err = c.r.Next(); errors.Is(err, io.EOF) {
		c.want, err = nil, nil
	}
	return err
}

func (c *comparison) missing() error {
	c.report(Change{c.want.Path, "is missing"})
	return c.next()
}

func (c *comparison) take(got *Entry) error {
	for c.want != nil && before(c.want.Path, got.Path) {
		if err := c.missing(); err != nil {
			return err
		}
	}
	if c.want == nil || c.want.Path != got.Path {
		c.report(Change{got.Path, "does not belong there"})
		return nil
	}
	if what := c.want.difference(got); what != "" {
		c.report(Change{got.Path, what})
	}
	return c.next()
}

// before is the order of the walk: what is below a folder comes before all
// that sorts after the folder's name.
func before(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) < 0
}

var kinds = map[byte]string{
	Folder: "a folder", File: "a file", Symlink: "a symbolic link", HardLink: "a hard link",
	Char: "a character device", Block: "a block device", Pipe: "a pipe", Socket: "a socket",
}

// difference says what of got is not as e records, "" when all is.
func (e *Entry) difference(got *Entry) string {
	switch {
	case e.Kind != got.Kind:
		return fmt.Sprintf("is %s, not %s", kinds[got.Kind], kinds[e.Kind])
	case e.Kind == File && got.Size == 0 && e.Size > 0:
		return fmt.Sprintf("is empty: it had %d bytes", e.Size)
	case e.Size != got.Size:
		return fmt.Sprintf("has %d bytes, not %d", got.Size, e.Size)
	case e.Content != got.Content:
		return "has other content"
	case e.Target != got.Target:
		return fmt.Sprintf("points to %q, not to %q", got.Target, e.Target)
	case e.Device != got.Device:
		return "is another device"
	case e.Mode != got.Mode:
		return fmt.Sprintf("has mode %04o, not %04o", got.Mode, e.Mode)
	case e.UID != got.UID || e.GID != got.GID:
		return fmt.Sprintf("belongs to %d:%d, not to %d:%d", got.UID, got.GID, e.UID, e.GID)
	case !slices.Equal(e.Xattrs, got.Xattrs):
		return "has other extended attributes"
	case e.Time != got.Time:
		return fmt.Sprintf("was changed at %s, not at %s", time.Unix(0, got.Time).UTC().Format(time.RFC3339Nano), time.Unix(0, e.Time).UTC().Format(time.RFC3339Nano))
	}
	return ""
}
