package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/disk"
	"hezi/internal/image/unpack"
)

// told is an error in words for a person; what it was stays to be asked for.
type told struct {
	text   string
	causes []error
}

func (t *told) Error() string { return t.text }

func (t *told) Unwrap() []error { return t.causes }

// diskError tells what to do about a full disk; other errors stay as they are.
func (s *depot) diskError(err error) error {
	var t *told
	if !disk.IsFull(err) || errors.As(err, &t) {
		return err
	}
	return &told{causes: []error{errdefs.ErrResourceExhausted, err}, text: "no space left on device: " + disk.NoSpace(s.root)}
}

// unpackError names what is wrong with a layer by the layer's own paths, not
// by those of our store.
func (s *depot) unpackError(root string, err error) error {
	if disk.IsFull(err) {
		return s.diskError(err)
	}
	var at *os.PathError
	if errors.Is(err, unix.ENAMETOOLONG) && errors.As(err, &at) {
		return &told{text: fmt.Sprintf("it has a file whose name is longer than Linux allows (255 bytes, 4096 with its folders): %.80q...", strings.TrimPrefix(at.Path, root)), causes: []error{err}}
	}
	var sys syscall.Errno
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unpack.ErrInflater) || errors.As(err, &sys) && !unpack.NeedsParents(err) {
		return err // not the layer's fault
	}
	text := strings.ReplaceAll(err.Error(), root+"/", "/")
	if unpack.Broken(err) {
		text = "it is no whole tar archive: " + text
	}
	return &told{text: text, causes: []error{err}}
}

// layerError names the layer. One that could be stored as its digest says and
// still cannot be unpacked was made so.
func layerError(l layer, err error) error {
	var t *told
	if errors.As(err, &t) && !disk.IsFull(err) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer %s cannot be unpacked: %v: the image is broken where it was built; build it again", l.blob.Digest, err))
	}
	return fmt.Errorf("unpack layer %s: %w", l.blob.Digest, err)
}

// notJSON says why body, for which JSON was asked, cannot be used.
func notJSON(body []byte, err error) string {
	if strings.HasPrefix(http.DetectContentType(body), "text/html") || bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) {
		return "is a web page, not JSON: this is no registry, or a proxy or a login page of the network answers in its place; check the name, and HTTPS_PROXY"
	}
	var shape *json.UnmarshalTypeError
	if errors.As(err, &shape) {
		where := "it"
		if shape.Field != "" {
			where = shape.Field
		}
		return fmt.Sprintf("is not what it should be: %s is of JSON type %s: push the image again", where, shape.Value)
	}
	return fmt.Sprintf("is not JSON: %v: push the image again", err)
}
