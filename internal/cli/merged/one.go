package merged

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// One copies one container's log, in frames whose records begin with a time, with
// details, or with both, to out and err. Of a line of several records
// only the first keeps them: in the middle of a line they are none of its text.
func One(log io.Reader, out, err io.Writer, timestamps, details bool) error {
	var t turns
	to := [2]io.Writer{t.writer(out), t.writer(err)}
	var open [2]bool // a stream's last record goes on in its next
	var frame []byte
	r := bufio.NewReaderSize(log, 64<<10)
	for {
		if r.Buffered() < 8 {
			if err := t.flush(); err != nil {
				return err
			}
		}
		var header [8]byte
		if _, err := io.ReadFull(r, header[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return t.flush()
		} else if err != nil {
			return errors.Join(err, t.flush())
		}
		size, i := binary.BigEndian.Uint32(header[4:]), 0
		if size > 4*maxLine || header[0] > byte(stdcopy.Systemerr) {
			return errors.Join(fmt.Errorf("a frame of kind %d with %d bytes is none of a log", header[0], size), t.flush())
		}
		if frame = append(frame[:0], make([]byte, size)...); header[0] >= byte(stdcopy.Stderr) {
			i = 1
		}
		n, rerr := io.ReadFull(r, frame)
		text := frame[:n]
		if open[i] {
			text = unprefixed(text, timestamps, details)
		}
		if n > 0 {
			open[i] = frame[n-1] != '\n'
		}
		if _, err := to[i].Write(text); err != nil {
			return err
		}
		if rerr != nil { // what of a frame came before the connection ended is shown too
			return t.flush()
		}
	}
}

// turns are writers, to what may be one terminal, of which the one that was written to
// last may hold something back.
type turns struct{ last *bufio.Writer }

type turn struct {
	*turns
	w *bufio.Writer
}

func (t *turns) writer(w io.Writer) io.Writer { return turn{t, bufio.NewWriterSize(w, 32<<10)} }

func (t turn) Write(b []byte) (int, error) {
	if t.last != t.w {
		if err := t.flush(); err != nil {
			return 0, err
		}
		t.last = t.w
	}
	return t.w.Write(b)
}

func (t *turns) flush() error {
	if t.last == nil {
		return nil
	}
	return t.last.Flush()
}

// unprefixed is a record without what the engine has put before its text; what has no
// time, as an error that the engine put there, is as it is.
func unprefixed(b []byte, timestamps, details bool) []byte {
	text := b
	if timestamps {
		at, rest, ok := bytes.Cut(b, []byte(" "))
		if _, err := time.Parse(time.RFC3339Nano, string(at)); !ok || err != nil {
			return b
		}
		text = rest
	}
	if details {
		if _, rest, ok := bytes.Cut(text, []byte(" ")); ok { // a space in them is escaped
			text = rest
		}
	}
	return text
}
