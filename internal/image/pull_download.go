package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/readahead"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/disk"
	"hezi/internal/image/registry"
)

const (
	chunkSize = 256 << 10
	// worthwhile is how much a try must bring for the next to count as the
	// first again.
	worthwhile = 1 << 20
	maxWrong   = 8 // tries that brought wrong content
)

// bring is build's bring: it downloads a layer unless another pull does so.
func (f *fetch) bring(ctx context.Context, l layer, t tap, w watch) error {
	return f.bringBlob(ctx, l.blob, t, w)
}

func (f *fetch) bringBlob(ctx context.Context, d ocispec.Descriptor, t tap, w watch) error {
	ready := func(ctx context.Context) (bool, error) { return f.s.hasBlob(ctx, d.Digest) }
	return f.s.flights.do(ctx, "blob "+d.Digest.String(), w, ready, func(ctx context.Context, w watch) error {
		release, err := f.repo.Slot(ctx, func() { w(step{status: statusWaiting}) })
		if err != nil {
			return err
		}
		w(step{status: statusDownloading, total: d.Size})
		end, err := func() (func(), error) {
			defer release()
			return f.download(ctx, d, t, w)
		}()
		end()
		return err
	})
}

// transfer is one blob on its way into the store.
type transfer struct {
	f       *fetch
	blob    ocispec.Descriptor
	w       watch
	t       tap
	out     content.Writer
	at      int64 // bytes in the store
	since   int64 // at, when the present count of tries began
	mixed   bool  // what is stored came from several answers
	whole   bool  // asking for parts failed: it comes over one connection
	pipe    *io.PipeWriter
	tapDone chan struct{}
}

// download brings a blob into the store: it goes on where an earlier try
// ended, tries again and asks other hosts. end waits until t has ended; it is
// never nil.
func (f *fetch) download(ctx context.Context, d ocispec.Descriptor, t tap, w watch) (end func(), err error) {
	x := &transfer{f: f, blob: d, w: w, t: t}
	ingest := "pull-" + d.Digest.String()
	x.out, err = f.s.blobs.Writer(f.plain, content.WithRef(ingest), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return func() {}, nil
	}
	if err != nil {
		return func() {}, fmt.Errorf("store blob %s: %w", d.Digest, err)
	}
	defer x.out.Close()
	end = func() {
		if x.tapDone != nil {
			<-x.tapDone
		}
	}
	st, err := x.out.Status()
	if err != nil {
		return end, fmt.Errorf("store blob %s: %w", d.Digest, err)
	}
	x.at, x.since, x.mixed = st.Offset, st.Offset, st.Offset > 0
	if x.at > d.Size {
		if err := x.restart(); err != nil {
			return end, err
		}
	}
	err = x.run(ctx)
	x.endTap(err)
	if err != nil {
		if errdefs.IsDataLoss(err) || disk.IsFull(err) || x.at == 0 { // nothing to go on from
			x.out.Close()
			if aerr := f.s.blobs.Abort(f.plain, ingest); aerr != nil && !errdefs.IsNotFound(aerr) {
				f.s.log.Warn("drop a broken download", "blob", d.Digest, "error", aerr)
			}
		}
		return end, err
	}
	w(step{status: statusDownloaded})
	return end, nil
}

// run tries until the blob is stored and verified.
func (x *transfer) run(ctx context.Context) error {
	for n := 1; ; n++ {
		err := x.try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if x.at-x.since >= worthwhile {
			n = 1
		}
		x.since = x.at
		var wrong *wrongBlob
		if errors.As(err, &wrong) {
			if !wrong.retry || n >= maxWrong {
				return wrong.error
			}
			continue
		}
		wait, ok := x.f.repo.Again(err, n)
		if !ok {
			return err
		}
		x.f.s.log.Info("download tried again", "blob", x.blob.Digest, "at", x.at, "after", wait.Round(time.Millisecond), "error", err)
		if err := countdown(ctx, wait, x.w); err != nil {
			return err
		}
	}
}

// countdown waits, telling the user each second.
func countdown(ctx context.Context, d time.Duration, w watch) error {
	for d > 0 {
		part := min(d, time.Second)
		if d >= time.Second {
			n := int((d + time.Second/2) / time.Second)
			unit := "seconds"
			if n == 1 {
				unit = "second"
			}
			w(step{status: fmt.Sprintf("Retrying in %d %s", n, unit)})
		}
		t := time.NewTimer(part)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		d -= part
	}
	return nil
}

// wrongBlob is content that does not have its digest; retry says whether
// another try may bring the right one.
type wrongBlob struct {
	error
	retry bool
}

// try asks once and takes what comes. Everything is stored when it returns
// nil.
func (x *transfer) try(ctx context.Context) error {
	if x.at == x.blob.Size && x.at > 0 { // all was there, but not verified
		return x.verify(ctx, nil)
	}
	b, err := x.f.repo.Blob(ctx, x.blob, x.at)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.Offset != x.at {
		if err := x.restart(); err != nil {
			return err
		}
	}
	if x.at > 0 {
		x.mixed = true
	} else {
		x.mixed = false
		x.beginTap(ctx)
	}
	if err := x.copy(ctx, b); err != nil {
		return err
	}
	return x.verify(ctx, b)
}

// copy stores the body and hands it to the tap.
func (x *transfer) copy(ctx context.Context, b *registry.Blob) error {
	buf := make([]byte, chunkSize)
	line := lineWatch{begun: time.Now()}
	for {
		x.w(step{status: statusDownloading, current: x.at, total: x.blob.Size})
		n, err := line.read(b, buf)
		if x.at+int64(n) > x.blob.Size {
			n = int(x.blob.Size - x.at)
			err = errors.New("it sent more than the blob's size")
		}
		if n > 0 {
			if _, werr := x.out.Write(buf[:n]); werr != nil {
				return fmt.Errorf("store blob %s: %w", x.blob.Digest, x.f.s.diskError(werr))
			}
			x.at += int64(n)
			if x.pipe != nil {
				if _, perr := x.pipe.Write(buf[:n]); perr != nil {
					x.pipe = nil // the reader has given up, or has enough
				}
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, io.EOF) {
			if x.at == x.blob.Size {
				return nil
			}
			err = io.ErrUnexpectedEOF
		}
		if err != nil && line.split {
			x.whole = true
			x.f.s.log.Info("layer comes over one connection again", "blob", x.blob.Digest, "at", x.at, "error", err)
		}
		if err != nil {
			return x.f.repo.Cut(b, err)
		}
		if !x.whole && b.Splits() && line.slow(x.blob.Size-x.at) {
			line.split = true
			b.Split(ctx, x.blob, x.at)
		}
	}
}

// A connection that brings a large layer slower than we take it is helped by
// others: registries and the way to them often limit each connection.
var (
	splitAfter = time.Second     // what comes sooner needs no help
	splitWorth = int64(32 << 20) // bytes that must be left
)

// lineWatch tells a slow line from a slow reader.
type lineWatch struct {
	begun  time.Time
	waited time.Duration // for the line
	split  bool
}

func (l *lineWatch) read(r io.Reader, buf []byte) (int, error) {
	t := time.Now()
	n, err := r.Read(buf)
	l.waited += time.Since(t)
	return n, err
}

// slow says whether the line is what is waited for, with left bytes to come.
func (l *lineWatch) slow(left int64) bool {
	all := time.Since(l.begun)
	return !l.split && left >= splitWorth && all >= splitAfter && l.waited > all/2
}

// verify compares digests and names the blob. b is the answer whose end
// completed it, nil if that was an earlier day's.
func (x *transfer) verify(ctx context.Context, b *registry.Blob) error {
	x.w(step{status: statusVerifying})
	got := x.out.Digest()
	if got != x.blob.Digest {
		x.endTap(errors.New("the blob has a wrong digest"))
		if err := x.restart(); err != nil {
			return err
		}
		if b == nil || x.mixed { // whose fault it was cannot be said
			return &wrongBlob{error: fmt.Errorf("blob %s was stored wrongly", x.blob.Digest), retry: true}
		}
		err, retry := x.f.repo.Wrong(b, x.blob, got)
		return &wrongBlob{error: err, retry: retry}
	}
	err := x.out.Commit(ctx, x.blob.Size, x.blob.Digest)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("store blob %s: %w", x.blob.Digest, err)
	}
	return nil
}

// restart drops what is stored.
func (x *transfer) restart() error {
	x.endTap(errors.New("the download begins anew"))
	if err := x.out.Truncate(0); err != nil {
		return fmt.Errorf("store blob %s: %w", x.blob.Digest, err)
	}
	x.at, x.since = 0, 0
	return nil
}

// beginTap lets the tap read from the first byte.
func (x *transfer) beginTap(ctx context.Context) {
	if x.t == nil {
		return
	}
	x.endTap(errors.New("the download begins anew"))
	r, w := io.Pipe()
	done := make(chan struct{})
	x.pipe, x.tapDone = w, done
	go func() {
		defer close(done)
		r.CloseWithError(errors.Join(x.tapped(ctx, r), io.ErrClosedPipe))
	}()
}

// tapped runs the tap some parts behind the download, so that neither waits
// for the other at each of them.
func (x *transfer) tapped(ctx context.Context, r io.Reader) error {
	ahead, err := readahead.NewReaderSize(r, aheadParts, chunkSize)
	if err != nil {
		return err
	}
	defer ahead.Close()
	return x.t(ctx, ahead)
}

// endTap tells the tap that there is no more, with the reason if that is
// early; then it also waits for it.
func (x *transfer) endTap(err error) {
	if x.pipe != nil {
		_ = x.pipe.CloseWithError(err) // nil is the proper end
		x.pipe = nil
	}
	if err != nil && x.tapDone != nil {
		<-x.tapDone
		x.tapDone = nil
	}
}
