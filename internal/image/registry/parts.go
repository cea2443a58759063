package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	partSize = 4 << 20 // bytes
	// partsAtOnce connections bring one blob; so many parts are in memory.
	partsAtOnce = 4
)

// Splits says whether the rest of the blob may come in parts, over several
// connections: its host serves ranges (RFC 9110, 14.3).
func (b *Blob) Splits() bool { return b.ranges }

// Split lets the blob from byte at on, which is the next to be read, come over
// several connections to the same host; the one that is open brings the first
// part. Reading fails as a whole when one part does.
func (b *Blob) Split(ctx context.Context, d ocispec.Descriptor, at int64) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &parts{first: b.ReadCloser, left: min(partSize, d.Size-at), cancel: cancel, ctx: ctx}
	next := at + p.left
	for i := range partsAtOnce {
		s := &lane{free: make(chan struct{}, 1), full: make(chan error, 1)}
		p.lanes = append(p.lanes, s)
		from := next + int64(i)*partSize
		p.workers.Go(func() {
			for ; from < d.Size; from += partsAtOnce * partSize {
				select {
				case <-ctx.Done():
					return
				case s.free <- struct{}{}:
				}
				to := min(from+partSize, d.Size)
				if s.buf == nil {
					s.buf = make([]byte, partSize)
				}
				s.n = int(to - from)
				err := b.part(ctx, d, from, s.buf[:s.n])
				s.full <- err
				if err != nil {
					return
				}
			}
			close(s.full)
		})
	}
	b.ReadCloser = p
}

// part fetches the bytes of a blob from offset on that fill buf.
func (b *Blob) part(ctx context.Context, d ocispec.Descriptor, offset int64, buf []byte) error {
	last := offset + int64(len(buf)) - 1
	h := http.Header{"Accept": {"*/*"}, "Range": {fmt.Sprintf("bytes=%d-%d", offset, last)}}
	resp, err := b.repo.ask(ctx, b.ep, request{method: http.MethodGet, rest: "blobs/" + d.Digest.String(), header: h})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	want := fmt.Sprintf("bytes %d-%d/", offset, last)
	if got := resp.Header.Get("Content-Range"); resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(got, want) {
		return &Failure{Host: b.Host, class: errdefs.ErrUnavailable,
			text: fmt.Sprintf("registry %s was asked for a part of blob %s and sent another (%d, %q)", b.Host, d.Digest, resp.StatusCode, got)}
	}
	_, err = io.ReadFull(resp.Body, buf)
	return err
}

// lane holds every partsAtOnce-th part, one at a time.
type lane struct {
	free chan struct{} // taken while buf is in use
	full chan error    // buf was filled, or could not be; closed after the last
	buf  []byte
	n    int
}

// parts reads parts in their order while later ones arrive.
type parts struct {
	first   io.ReadCloser
	left    int64 // of first
	lanes   []*lane
	now     int    // the lane that is read
	rest    []byte // of its buffer
	held    bool
	err     error
	ctx     context.Context
	cancel  context.CancelCauseFunc
	workers sync.WaitGroup
}

func (p *parts) Read(b []byte) (n int, err error) {
	if p.err != nil {
		return 0, p.err
	}
	if p.left > 0 {
		n, err = p.first.Read(b[:min(int64(len(b)), p.left)])
		p.left -= int64(n)
		if err == io.EOF && p.left == 0 { //nolint:errorlint // io.Reader's own
			err = nil
		}
		p.err = err
		return n, err
	}
	for len(p.rest) == 0 {
		if err := p.next(); err != nil {
			p.err = err
			return 0, err
		}
	}
	n = copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// next gives back the buffer that was read and waits for the one after it.
func (p *parts) next() error {
	if p.held {
		<-p.lanes[p.now].free
		p.held = false
		p.now = (p.now + 1) % len(p.lanes)
	} else { // the first connection has brought its part
		p.first.Close()
	}
	s := p.lanes[p.now]
	select {
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	case err, more := <-s.full:
		if !more {
			return io.EOF
		}
		if err != nil {
			return err
		}
	}
	p.held, p.rest = true, s.buf[:s.n]
	return nil
}

// Close ends the connections, and waits until they are.
func (p *parts) Close() error {
	p.cancel(context.Canceled)
	p.workers.Wait()
	return p.first.Close()
}
