// Package merged shows the logs of several containers as one, in the order of
// time. It reads logs that were asked for with time stamps, as Docker's API has
// them: in frames (moby's api/pkg/stdcopy), or raw from a terminal.
package merged

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Source is one container's log.
type Source struct {
	Name     string
	Terminal bool // raw, without frames
	Details  bool // asked for with details
	Log      io.Reader
}

// Options say how lines are shown.
type Options struct {
	Out, Err   io.Writer
	Timestamps bool
	// Follow: the logs go on. A source that is silent holds the others' lines up for
	// no longer than patience.
	Follow bool
}

// patience is how long a line of a followed log waits for earlier ones of others.
const patience = 200 * time.Millisecond

// maxLine bounds, in bytes, a line that is put together of several records; what
// is beyond comes as a line of its own.
const maxLine = 1 << 20

// line is one line, or what there is of it, with its time in RFC 3339 with all
// nine digits, which sorts as text.
type line struct {
	at     string
	text   []byte
	stderr bool
}

// head is a source's next line.
type head struct {
	*line
	lines  chan *line
	failed error
	source *Source
	over   bool
}

// Show writes the sources' lines, each behind its container's name, until all end.
func Show(sources []Source, o Options) error {
	heads := make([]*head, len(sources))
	more := make(chan struct{}, 1)
	quit := make(chan struct{})
	defer close(quit)
	width := 0
	var readers sync.WaitGroup
	for i := range sources {
		h := &head{lines: make(chan *line, 256), source: &sources[i]}
		heads[i] = h
		width = max(width, len(h.source.Name))
		readers.Go(func() {
			defer close(h.lines)
			h.failed = read(h.source, func(l *line) bool {
				select {
				case h.lines <- l:
				case <-quit:
					return false
				}
				select {
				case more <- struct{}{}:
				default:
				}
				return true
			})
			select {
			case more <- struct{}{}:
			default:
			}
		})
	}
	var t turns
	if !o.Follow {
		o.Out, o.Err = t.writer(o.Out), t.writer(o.Err)
	}
	for {
		first := next(heads, o.Follow, more)
		if first == nil {
			break
		}
		if err := first.show(o, width); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	readers.Wait()
	for _, h := range heads {
		if h.failed != nil {
			return fmt.Errorf("the log of %s: %w", h.source.Name, h.failed)
		}
	}
	return nil
}

// next is the source with the earliest line; nil: all have ended.
func next(heads []*head, follow bool, more <-chan struct{}) *head {
	var deadline <-chan time.Time
	late := false
	for {
		var first *head
		silent, open := false, false
		for _, h := range heads {
			h.fill(!follow)
			open = open || !h.over
			switch {
			case h.line == nil:
				silent = silent || !h.over
			case first == nil || h.at < first.at:
				first = h
			}
		}
		if first != nil && (!silent || late) || !open && first == nil {
			return first
		}
		if first != nil && deadline == nil {
			deadline = time.After(patience)
		}
		select {
		case <-more:
		case <-deadline:
			late = true
		case <-time.After(time.Second): // a source that has just ended
		}
	}
}

// fill takes the next line, waiting for it where wait says so.
func (h *head) fill(wait bool) {
	if h.line != nil || h.over {
		return
	}
	var ok bool
	if wait {
		h.line, ok = <-h.lines
		h.over = !ok
		return
	}
	select {
	case h.line, ok = <-h.lines:
		h.over = !ok
	default:
	}
}

func (h *head) show(o Options, width int) error {
	l := h.line
	h.line = nil
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-*s | ", width, h.source.Name)
	if o.Timestamps {
		b.WriteString(l.at + " ")
	}
	b.Write(l.text)
	if !bytes.HasSuffix(l.text, []byte("\n")) {
		b.WriteByte('\n')
	}
	to := o.Out
	if l.stderr {
		to = o.Err
	}
	_, err := to.Write(b.Bytes())
	return err
}

// read gives a source's lines to give until it says false.
func read(s *Source, give func(*line) bool) error {
	r := bufio.NewReaderSize(s.Log, 64<<10)
	if s.Terminal {
		return readRaw(r, give)
	}
	var open [2]*line // of each stream, a line that goes on in its next record
	var header [8]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			for _, l := range open {
				if l != nil && !give(l) {
					return nil
				}
			}
			if err == io.EOF {
				return nil
			}
			return err
		}
		size := binary.BigEndian.Uint32(header[4:])
		if size > 4*maxLine || header[0] > 3 {
			return fmt.Errorf("a frame of kind %d with %d bytes is none of a log", header[0], size)
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r, frame); err != nil {
			return err
		}
		stderr := header[0] >= 2
		i := 0
		if stderr {
			i = 1
		}
		l := open[i]
		if l != nil {
			l.text = append(l.text, unprefixed(frame, true, s.Details)...)
		} else {
			l = stamped(frame, stderr)
		}
		if open[i] = l; bytes.HasSuffix(l.text, []byte("\n")) || len(l.text) >= maxLine {
			open[i] = nil
			if !give(l) {
				return nil
			}
		}
	}
}

// readRaw reads a terminal's lines; what is longer than maxLine is several.
func readRaw(r *bufio.Reader, give func(*line) bool) error {
	var text []byte
	for {
		piece, err := r.ReadSlice('\n')
		text = append(text, piece...)
		if errors.Is(err, bufio.ErrBufferFull) {
			if err = nil; len(text) < maxLine {
				continue
			}
			text = append(text, '\n')
		}
		if len(text) > 0 && !give(stamped(text, false)) {
			return nil
		}
		text = nil
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// stamped parts the time stamp from a record; what has none, as an error that the
// engine put there, comes first.
func stamped(b []byte, stderr bool) *line {
	at, text, ok := bytes.Cut(b, []byte(" "))
	if _, err := time.Parse(time.RFC3339Nano, string(at)); !ok || err != nil || !strings.HasSuffix(string(at), "Z") {
		return &line{text: b, stderr: stderr}
	}
	return &line{at: string(at), text: text, stderr: stderr}
}
