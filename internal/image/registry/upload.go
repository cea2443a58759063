package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	smallBlob = 4 << 20  // up to this, a blob goes in one request
	minChunk  = 1 << 20  // the least that a proxy's limit is tried with: nginx's default
	progress  = 1 << 20  // bytes that make the next failure count as the first
	firstCut  = 64 << 20 // parts, after the whole was too large
)

// Content opens a blob at an offset.
type Content func(offset int64) (io.ReadCloser, error)

// upload is a blob on its way to a registry.
type upload struct {
	at     *url.URL // where the registry wants what follows
	offset int64    // bytes that it said it has
	doubt  bool     // it may have more, or nothing any more
	min    int64    // the least part that it takes, but for the last
}

// uploading is the state of one Upload over all its tries.
type uploading struct {
	p       *Pusher
	d       ocispec.Descriptor
	open    Content
	show    func(sent int64)
	session *upload
	// asked: the registry may have all; its answer to the last part is missing.
	asked bool
	wrong int // how often it said that the content is not the digest's
	// How the last try went: in one request, or in parts of at most limit.
	whole bool
	limit int64
}

// Upload brings a blob into the repository: from the first of other
// repositories (by path) that has it, whose name it returns, or from open. It
// goes on where a try ended, as far as the registry kept it. show is told how
// many bytes were sent; wait how long it waits before another try.
func (p *Pusher) Upload(ctx context.Context, d ocispec.Descriptor, sources []string, open Content, show func(sent int64), wait func(context.Context, time.Duration) error) (string, error) {
	from, session, err := p.mountAny(ctx, d.Digest, sources)
	if err != nil || from != "" {
		return from, err
	}
	u := &uploading{p: p, d: d, open: open, show: show, session: session}
	err = u.run(ctx, wait)
	var content *contentError
	if errors.As(err, &content) {
		p.drop(ctx, u.session)
		return "", fmt.Errorf("read blob %s: %w", d.Digest, content)
	}
	if err != nil {
		var f *Failure
		if ctx.Err() != nil || errors.As(err, &f) && f.Status != 0 {
			p.drop(ctx, u.session)
		}
		return "", p.explain(err)
	}
	p.learn(d.Digest)
	return "", nil
}

// run tries until the blob is there.
func (u *uploading) run(ctx context.Context, wait func(context.Context, time.Duration) error) error {
	var best int64 // bytes that the registry once had
	for n := 1; ; n++ {
		err := u.try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if u.session != nil && u.session.offset-best >= progress {
			best, n = u.session.offset, 1
		}
		retry, ok := u.adapt(err)
		if !ok {
			return err
		}
		if retry && n < u.p.r.gen.maxAttempts {
			continue
		}
		pause, ok := u.p.r.Again(err, n)
		if !ok {
			return err
		}
		u.p.r.c.log.Info("upload tried again", "repository", label(u.p.r), "blob", u.d.Digest, "after", pause.Round(time.Millisecond), "error", err)
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// adapt changes the way of uploading after an error. retry says that this is
// reason enough to try again at once; ok is false if it is of no use.
func (u *uploading) adapt(err error) (retry, ok bool) {
	var f *Failure
	var content *contentError
	if errors.As(err, &content) || !errors.As(err, &f) {
		return false, false
	}
	switch {
	case f.Status == http.StatusRequestEntityTooLarge:
		return true, !u.whole && u.p.shrink(u.limit, u.d.Size)
	case u.session != nil && !u.whole && (f.Code == "UNSUPPORTED" || f.Status == http.StatusMethodNotAllowed || f.Status == http.StatusNotImplemented):
		u.p.once()
		u.session = nil
		return true, true
	case f.Code == "DIGEST_INVALID":
		u.session = nil
		u.wrong++
		return true, u.wrong < 2
	case f.Code == "BLOB_UPLOAD_UNKNOWN", f.Code == "BLOB_UPLOAD_INVALID", f.Code == "SIZE_INVALID", f.Code == "RANGE_INVALID",
		f.Status == http.StatusRequestedRangeNotSatisfiable, u.session != nil && (f.Status == http.StatusNotFound || f.Status == http.StatusBadRequest):
		if f.Status == http.StatusBadRequest && f.Code == "" {
			u.p.once() // perhaps it knows no parts
		}
		u.session = nil
		return true, true
	}
	return false, true
}

// shrink makes requests smaller than limit, with which a blob of size was too
// large; false if they are small enough already.
func (p *Pusher) shrink(limit, size int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit != 0 && p.limit < limit || limit == 0 && p.limit != 0 && p.limit < size {
		return true // for another blob
	}
	if limit == 0 {
		limit = firstCut * 4
	}
	for limit = min(limit, 2*size); limit > minChunk; {
		if limit = max(limit/4, minChunk); limit < size {
			p.limit = limit
			return true
		}
	}
	return false
}

// once has blobs go in one request from now on.
func (p *Pusher) once() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = true
}

func (p *Pusher) way() (limit int64, whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit, p.whole
}

// try goes on from where the last one ended.
func (u *uploading) try(ctx context.Context) error {
	if u.asked { // the answer was lost, not the blob
		u.asked = false
		if ok, err := u.p.Has(ctx, u.d.Digest); ok || err != nil {
			return err
		}
	}
	if u.session != nil && u.session.doubt {
		if err := u.look(ctx); err != nil {
			return err
		}
	}
	if u.session == nil {
		s, err := u.p.begin(ctx)
		if err != nil {
			return err
		}
		u.session = s
	}
	u.limit, u.whole = u.p.way()
	fits := u.limit == 0 || u.d.Size <= u.limit
	if u.session.offset == 0 && (u.whole || fits && u.d.Size <= smallBlob) {
		return u.finish(ctx, u.d.Size)
	}
	for u.session.offset < u.d.Size {
		if err := u.part(ctx, u.limit); err != nil {
			return err
		}
	}
	return u.finish(ctx, 0)
}

// begin starts an upload.
func (p *Pusher) begin(ctx context.Context) (*upload, error) {
	resp, err := p.ask(ctx, request{method: http.MethodPost, rest: "blobs/uploads/"})
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return p.session(resp)
}

// session reads the answer that an upload has begun.
func (p *Pusher) session(resp *http.Response) (*upload, error) {
	s := &upload{}
	if err := p.next(s, resp); err != nil {
		return nil, err
	}
	if n, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && n > 0 {
		s.min = n
	}
	return s, nil
}

// next reads where to send what follows.
func (p *Pusher) next(s *upload, resp *http.Response) error {
	if loc := resp.Header.Get("Location"); loc != "" && resp.Request.URL.Scheme == "https" {
		// A proxy that ends TLS may not tell the registry behind it so.
		if u, err := url.Parse(loc); err == nil && u.Scheme == "http" && strings.EqualFold(u.Host, resp.Request.URL.Host) {
			u.Scheme = "https"
			resp.Header.Set("Location", u.String())
		}
	}
	at, err := resolveLocation(resp)
	if err != nil {
		return &Failure{Host: p.ep.base(), Cause: err, class: errdefs.ErrUnavailable, lied: true, text: fmt.Sprintf("registry %s: upload: %v", p.ep.base(), err)}
	}
	s.at = at
	return nil
}

// look asks how much of an upload the registry has. An upload that it has
// forgotten begins anew.
func (u *uploading) look(ctx context.Context) error {
	resp, err := u.p.ask(ctx, request{method: http.MethodGet, at: u.session.at})
	var f *Failure
	if errors.As(err, &f) && f.Status >= 400 && f.Status < 500 && f.Status != http.StatusUnauthorized && f.Status != http.StatusTooManyRequests {
		u.session = nil
		return nil
	}
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.Header.Get("Location") != "" {
		if err := u.p.next(u.session, resp); err != nil {
			return err
		}
	}
	n, ok := received(resp.Header)
	if !ok || n > u.d.Size {
		u.session = nil
		return nil
	}
	u.session.offset, u.session.doubt = n, false
	u.show(n)
	return nil
}

// received reads Range: 0-N, of which N is the last byte that is there. 0-0
// is nothing to some and one byte to others; nothing is tried.
func received(h http.Header) (int64, bool) {
	v := strings.TrimPrefix(h.Get("Range"), "bytes=")
	first, last, ok := strings.Cut(v, "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n < 0 {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return n + 1, true
}

// part sends the next part: all that is left, or what a limit allows.
func (u *uploading) part(ctx context.Context, limit int64) error {
	begin, n := u.session.offset, u.d.Size-u.session.offset
	if limit > 0 {
		n = min(n, max(limit, u.session.min))
	}
	h := bodyHeader(n)
	h.Set("Content-Range", fmt.Sprintf("%d-%d", begin, begin+n-1))
	resp, err := u.p.ask(ctx, request{method: http.MethodPatch, at: u.session.at, header: h, body: u.body(begin, n)})
	if err != nil {
		u.session.doubt = true
		return err
	}
	resp.Body.Close()
	if err := u.p.next(u.session, resp); err != nil {
		return err
	}
	u.session.offset = begin + n
	if got, ok := received(resp.Header); ok && got < begin+n {
		if got <= begin {
			return &Failure{Host: u.p.ep.base(), class: errdefs.ErrUnavailable, text: fmt.Sprintf("registry %s: upload: it took %d bytes and says it has %d", u.p.ep.base(), begin+n, got)}
		}
		u.session.offset = got
	}
	return nil
}

// finish names the blob; n bytes of it, none or all, are sent along.
func (u *uploading) finish(ctx context.Context, n int64) error {
	at := *u.session.at
	q := at.Query()
	q.Set("digest", u.d.Digest.String())
	at.RawQuery = q.Encode()
	body := func() (io.ReadCloser, int64, error) { return http.NoBody, 0, nil }
	if n > 0 {
		body = u.body(0, n)
	}
	resp, err := u.p.ask(ctx, request{method: http.MethodPut, at: &at, header: bodyHeader(n), body: body})
	if err != nil {
		var f *Failure
		u.asked = errors.As(err, &f) && f.Status == 0
		u.session.doubt = true
		return err
	}
	resp.Body.Close()
	if got := digest.Digest(resp.Header.Get("Docker-Content-Digest")); got.Validate() == nil && got.Algorithm() == u.d.Digest.Algorithm() && got != u.d.Digest {
		return &Failure{Host: u.p.ep.base(), class: errdefs.ErrDataLoss, lied: true, text: fmt.Sprintf("registry %s: upload: it stored %s as %s: the registry or something between is broken", u.p.ep.base(), u.d.Digest, got)}
	}
	return nil
}

// bodyHeader has a large body wait until the host wants it: what refuses it by
// its size, or asks who is there, says so before it is sent.
func bodyHeader(n int64) http.Header {
	h := http.Header{"Content-Type": {"application/octet-stream"}}
	if n > smallBlob {
		h.Set("Expect", "100-continue")
	}
	return h
}

// contentError is a failure to read what is to be sent.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// body opens a part.
func (u *uploading) body(begin, n int64) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		rc, err := u.open(begin)
		if err != nil {
			return nil, 0, &contentError{err}
		}
		return &sending{rc: rc, at: begin, left: n, show: u.show}, n, nil
	}
}

// sending counts what is sent.
type sending struct {
	rc       io.ReadCloser
	at, left int64
	show     func(int64)
}

func (s *sending) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.rc.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	s.at += int64(n)
	s.show(s.at)
	if errors.Is(err, io.EOF) && s.left > 0 {
		err = &contentError{errors.New("the blob is shorter than its descriptor says")}
	} else if err != nil && !errors.Is(err, io.EOF) {
		err = &contentError{err}
	}
	return n, err
}

func (s *sending) Close() error { return s.rc.Close() }

// drop tells the registry that an upload will not go on; s may be nil. That it
// forgets it by itself one day is enough.
func (p *Pusher) drop(ctx context.Context, s *upload) {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if resp, err := p.ask(ctx, request{method: http.MethodDelete, at: s.at}); err == nil {
		resp.Body.Close()
	}
}
