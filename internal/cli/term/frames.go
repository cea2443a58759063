package term

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

const (
	// streamExit is a frame with an exit code: 4 bytes, big-endian. Hezi's own.
	streamExit stdcopy.StdType = 4
	// largestMessage bounds a frame that is kept, in bytes.
	largestMessage = 1 << 20
)

// frames reads Docker's framed stream as stdcopy.StdCopy does, but with no more
// memory than a frame needs: of a short one the reader's own buffer, and of a
// frame of any size 64 KiB. Short frames that came together are written together.
type frames struct {
	*bufio.Reader
	large []byte
	held  []byte // of short frames, to be written
	kind  stdcopy.StdType
	to    io.Writer // where held, of this kind, goes
}

// heldLimit bounds held, in bytes.
const heldLimit = 32 << 10

// Demultiplex copies the streams of a log, in Docker's frames, to out and err.
func Demultiplex(log io.Reader, out, err io.Writer) error {
	return (&Attachment{Conn: client.HijackedResponse{Reader: bufio.NewReaderSize(log, 64<<10)}}).demultiplex(out, err)
}

// demultiplex copies the streams to out and err. Like StdCopy it takes an end
// within a frame for an end: whoever waits for the process says what it means.
func (a *Attachment) demultiplex(out, err io.Writer) (failure error) {
	f := frames{Reader: a.Conn.Reader}
	defer func() { failure = errors.Join(failure, f.flush()) }()
	for {
		kind, n, failed := f.next()
		if failed == nil {
			switch kind {
			case stdcopy.Stdin, stdcopy.Stdout:
				failed = f.copy(out, stdcopy.Stdout, n)
			case stdcopy.Stderr:
				failed = f.copy(err, kind, n)
			case stdcopy.Systemerr, streamExit:
				failed = a.message(&f, kind, n)
			default:
				return fmt.Errorf("the daemon sent a stream of the unknown kind %d", kind)
			}
		}
		if failed == io.EOF {
			return nil
		}
		if failed != nil {
			return failed
		}
	}
}

// next reads a frame's head. What is held is written before it waits for one.
func (f *frames) next() (stdcopy.StdType, int, error) {
	if f.Buffered() < 8 {
		if err := f.flush(); err != nil {
			return 0, 0, err
		}
	}
	head, err := f.Peek(8)
	if err != nil {
		return 0, 0, err
	}
	kind, n := stdcopy.StdType(head[0]), int(binary.BigEndian.Uint32(head[4:]))
	_, err = f.Discard(8)
	return kind, n, err
}

// flush writes what is held.
func (f *frames) flush() error {
	if len(f.held) == 0 {
		return nil
	}
	_, err := f.to.Write(f.held)
	f.held = f.held[:0]
	return err
}

// hold keeps a frame of n bytes to be written to w with others, if it is there as a
// whole and short.
func (f *frames) hold(w io.Writer, kind stdcopy.StdType, n int) (held bool, err error) {
	if f.kind != kind || len(f.held)+n > heldLimit {
		if err := f.flush(); err != nil {
			return false, err
		}
	}
	if n > f.Buffered() || n > heldLimit/2 || f.Buffered() == n && len(f.held) == 0 {
		return false, f.flush()
	}
	b, err := f.Peek(n)
	if err != nil {
		return false, err
	}
	f.held, f.kind, f.to = append(f.held, b...), kind, w
	_, err = f.Discard(n)
	return true, err
}

// copy writes the next n bytes, a frame of a kind, to w, as they come.
func (f *frames) copy(w io.Writer, kind stdcopy.StdType, n int) error {
	if held, err := f.hold(w, kind, n); held || err != nil {
		return err
	}
	for n > 0 {
		b, err := f.some(n)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		n -= len(b)
	}
	return nil
}

// some gives at least one and at most n bytes, which are good until the next call.
func (f *frames) some(n int) ([]byte, error) {
	if f.Buffered() == 0 && n > f.Size() {
		if f.large == nil {
			f.large = make([]byte, 64<<10)
		}
		k, err := f.Read(f.large[:min(n, len(f.large))])
		if k > 0 {
			err = nil // it comes again
		}
		return f.large[:k], err
	}
	if _, err := f.Peek(1); err != nil {
		return nil, err
	}
	b, err := f.Peek(min(n, f.Buffered()))
	if err != nil {
		return nil, err
	}
	_, err = f.Discard(len(b))
	return b, err
}

// message takes what is about the stream, not of it.
func (a *Attachment) message(f *frames, kind stdcopy.StdType, n int) error {
	if n > largestMessage {
		return fmt.Errorf("the daemon sent a message of %d bytes", n)
	}
	var text bytes.Buffer
	if err := errors.Join(f.copy(&text, kind, n), f.flush()); err != nil {
		return err
	}
	if kind == stdcopy.Systemerr {
		return fmt.Errorf("error from daemon in stream: %s", text.Bytes())
	}
	if b := text.Bytes(); len(b) == 4 {
		code := int(binary.BigEndian.Uint32(b))
		a.Exit = &code
	}
	return nil
}
