package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxJSON bounds a decoded request's body. The largest real ones are creates
// with thousands of environment variables and binds.
const maxJSON = 8 << 20

// body decodes a JSON body into v: exactly one document, no more than maxJSON.
// Unknown fields are tolerated, as Docker tolerates them.
func (c *call) body(v any) error {
	if err := checkJSONType(c.r); err != nil {
		return err
	}
	dec := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxJSON))
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errdefs.ErrInvalidArgument.WithMessage("invalid JSON: got EOF while reading request body")
		}
		return invalid("invalid JSON", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errdefs.ErrInvalidArgument.WithMessage("unexpected content after JSON")
	}
	return nil
}

// optionalBody is body where the client may send none.
func (c *call) optionalBody(v any) error {
	if c.r.ContentLength == 0 || c.r.Body == nil || c.r.Body == http.NoBody {
		return nil
	}
	return c.body(v)
}

func checkJSONType(r *http.Request) error {
	ct := r.Header.Get("Content-Type")
	if ct == "" && (r.Body == nil || r.ContentLength == 0) {
		return nil
	}
	if mt, _, err := mime.ParseMediaType(ct); err != nil || mt != "application/json" {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"unsupported Content-Type header (%s): must be 'application/json'", ct))
	}
	return nil
}

// query of the request; form bodies are not read.
func (c *call) query() url.Values { return c.r.URL.Query() }

func (c *call) get(name string) string { return c.r.URL.Query().Get(name) }

// flag reads a boolean as Docker does: absent, 0, no, false and none are false.
func (c *call) flag(name string) bool {
	switch strings.ToLower(strings.TrimSpace(c.get(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// flagOr is flag with a default for an absent parameter.
func (c *call) flagOr(name string, def bool) bool {
	if !c.query().Has(name) {
		return def
	}
	return c.flag(name)
}

// number reads an optional integer.
func (c *call) number(name string) (*int, error) {
	s := c.get(name)
	if s == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s=%q: a whole number is needed", name, s))
	}
	return &n, nil
}

// size reads a terminal's height and width.
func (c *call) size() (h, w uint16, err error) {
	for _, p := range []struct {
		name string
		to   *uint16
	}{{"h", &h}, {"w", &w}} {
		n, err := strconv.ParseUint(c.get(p.name), 10, 16)
		if err != nil {
			return 0, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"invalid resize %s %q: a number from 0 to 65535 is needed", map[string]string{"h": "height", "w": "width"}[p.name], c.get(p.name)))
		}
		*p.to = uint16(n)
	}
	return h, w, nil
}

// consoleSize is the height and width of a body, which came with 1.42.
func (c *call) consoleSize(size *[2]uint) (h, w uint, err error) {
	if size == nil || c.version < 42 {
		return 0, 0, nil
	}
	if size[0] > math.MaxUint16 || size[1] > math.MaxUint16 {
		return 0, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid console size %v: a height and a width from 0 to 65535 are needed", *size))
	}
	return size[0], size[1], nil
}

// filters reads the parameter in both of Docker's forms: a map of maps, and
// the older map of lists.
func (c *call) filters() (Filters, error) {
	s := c.get("filters")
	if s == "" {
		return Filters{}, nil
	}
	var f Filters
	err := json.Unmarshal([]byte(s), &f)
	if err == nil {
		return f, nil
	}
	var lists map[string][]string
	if json.Unmarshal([]byte(s), &lists) != nil {
		return nil, invalid("invalid filter", err)
	}
	f = make(Filters, len(lists))
	for key, values := range lists {
		f[key] = make(map[string]bool, len(values))
		for _, v := range values {
			f[key][v] = true
		}
	}
	return f, nil
}

// timestamp reads Docker's seconds[.nanoseconds]; "" is the zero time.
func timestamp(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		if t, terr := time.Parse(time.RFC3339Nano, s); terr == nil {
			return t, nil
		}
		return time.Time{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is no time: seconds since 1970 are needed, with a fraction if wanted", s))
	}
	var nano int64
	if frac != "" {
		if len(frac) > 9 {
			frac = frac[:9]
		}
		if nano, err = strconv.ParseInt(frac+strings.Repeat("0", 9-len(frac)), 10, 64); err != nil {
			return time.Time{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is no time: seconds since 1970 are needed, with a fraction if wanted", s))
		}
	}
	return time.Unix(n, nano), nil
}

// platformText reads "linux/arm64/v8"; "" is nil, the host's own.
func platformText(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return nil, invalid(fmt.Sprintf("platform %q", s), err)
	}
	return &p, nil
}

// platformJSON reads the JSON form that newer parameters use.
func platformJSON(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(s), &p); err != nil {
		return nil, invalid("failed to parse platform", err)
	}
	if p.OS == "" || p.Architecture == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("both OS and Architecture must be provided")
	}
	return &p, nil
}

// platformList reads a repeated platform parameter in its JSON form.
func platformList(values []string) ([]ocispec.Platform, error) {
	var out []ocispec.Platform
	for _, s := range values {
		p, err := platformJSON(s)
		if err != nil {
			return nil, err
		}
		if p != nil {
			out = append(out, *p)
		}
	}
	return out, nil
}

// writeJSON answers with a status and a value.
func (c *call) writeJSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("the answer could not be written as JSON: %w", err)
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(append(body, '\n')) // the client may be gone
	return nil
}

// writeList answers with a list, one element after the other: a client reads the
// first while the last are not written yet.
func writeList[T any](c *call, list []T) error {
	c.w.Header().Set("Content-Type", "application/json")
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	b.WriteByte('[')
	for i := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := enc.Encode(&list[i]); err != nil {
			return fmt.Errorf("the answer could not be written as JSON: %w", err)
		}
		if b.Len() > listPiece {
			_, _ = b.WriteTo(c.w) // the client may be gone
		}
	}
	b.WriteString("]\n")
	_, _ = b.WriteTo(c.w)
	return nil
}

const listPiece = 16 << 10

// noContent answers 204.
func (c *call) noContent(err error) error {
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// writeJSONBody writes a value after the headers, or with 200.
func (c *call) writeJSONBody(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("the answer could not be written as JSON: %w", err)
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(append(body, '\n')) // the client may be gone
	return nil
}

// ok answers 200 without a body.
func (c *call) ok(err error) error {
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}
