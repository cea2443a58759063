package logs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"time"
)

// Place is a place in a log that stays true over rotations, compressions and
// restarts: a file is known by the time of its first record. Its zero is the
// beginning.
type Place struct {
	First  time.Time // of the file's first record
	Offset int64     // bytes into the file, uncompressed
}

// Cursor reads a log that another process writes, on and on. It is not for use by
// several goroutines at a time.
type Cursor struct {
	cfg   Config
	place Place
	f     *file // nil: not found yet
	plain bool  // f is not compressed, and may grow
}

// NewCursor starts at place.
func NewCursor(cfg Config, place Place) *Cursor { return &Cursor{cfg: cfg, place: place} }

// Place is where the cursor is.
func (c *Cursor) Place() Place { return c.place }

// Seek goes back to a place that the cursor was at.
func (c *Cursor) Seek(p Place) {
	if !p.First.Equal(c.place.First) {
		c.Close()
	}
	c.place = p
}

// Close closes the file.
func (c *Cursor) Close() {
	if c.f != nil {
		c.f.f.Close()
		c.f = nil
	}
}

// errEnough ends a Next that has given what it may.
var errEnough = errors.New("enough")

// Next calls fn for what comes next, until limit bytes of records were given or
// there is no more for now. lost says that rotation has, or may have, deleted
// records that were not read; more that there may be more already.
func (c *Cursor) Next(ctx context.Context, limit int, fn func(*Entry)) (lost, more bool, err error) {
	for {
		if c.f == nil {
			var found bool
			if found, lost, err = c.find(); err != nil || !found {
				return lost, false, err
			}
		}
		whole := !c.plain || c.rotated() // before what is read: then that is all of it
		given := 0
		if given, err = c.read(ctx, limit, fn); errors.Is(err, errEnough) {
			return lost, true, nil
		}
		if err != nil || !whole {
			return lost, false, err
		}
		found, skipped, err := c.advance()
		lost = lost || skipped
		if err != nil || !found {
			return lost, false, err
		}
		if given > 0 {
			return lost, true, nil
		}
	}
}

// read gives records of the present file.
func (c *Cursor) read(ctx context.Context, limit int, fn func(*Entry)) (given int, err error) {
	if c.plain {
		if err := c.alignLine(); err != nil {
			return 0, err
		}
	}
	r, err := c.f.reader(c.place.Offset)
	if err != nil {
		return 0, nil // a broken archive has nothing more
	}
	n, err := scan(ctx, r, func(int64, error) {}, func(e *Entry) error {
		fn(e)
		if given += len(e.Line) + 100; given >= limit { // what a record has beside its text
			return errEnough
		}
		return nil
	})
	c.place.Offset += n
	return given, err
}

// alignLine goes back to the beginning of a line: the keeper, killed while it
// wrote, cuts records off and writes them again, which may be as long as they like.
func (c *Cursor) alignLine() error {
	st, err := c.f.f.Stat()
	if err != nil {
		return err
	}
	c.place.Offset = min(c.place.Offset, st.Size())
	var b [1]byte
	for c.place.Offset > 0 {
		if _, err := c.f.f.ReadAt(b[:], c.place.Offset-1); err != nil {
			return err
		}
		if b[0] == '\n' {
			return nil
		}
		c.place.Offset--
	}
	return nil
}

// rotated says whether the file is not the one any more that is written to.
func (c *Cursor) rotated() bool {
	mine, err := c.f.f.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(c.cfg.Path)
	return err == nil && !os.SameFile(mine, now)
}

// find opens the file of the place.
func (c *Cursor) find() (found, lost bool, err error) {
	f, first, err := c.open(true)
	if err != nil || f == nil {
		return false, false, err
	}
	if !first.Equal(c.place.First) {
		lost = !c.place.First.IsZero()
		c.place = Place{First: first}
	}
	c.f, c.plain = f, !f.gzip
	return true, lost, nil
}

// advance goes to the file after the present one.
func (c *Cursor) advance() (found, lost bool, err error) {
	same, at, err := c.open(true)
	if err != nil {
		return false, false, err
	}
	if same != nil {
		same.f.Close()
		lost = !at.Equal(c.place.First) // it is gone, and so may be the one after it
	}
	f, first, err := c.open(false)
	if err != nil || f == nil {
		return false, false, err
	}
	c.Close()
	c.f, c.plain, c.place = f, !f.gzip, Place{First: first}
	return true, lost, nil
}

// open opens the file of the place or, without own, the one after it: by their
// names' order, since a clock may be set back. Where the place's file is gone, it is
// the oldest with a later beginning or, if the present one has an earlier one, the
// oldest. nil: none yet; an empty file, which has no first record, is none.
func (c *Cursor) open(own bool) (*file, time.Time, error) {
	f, first, seen, err := c.look(own)
	if err != nil || seen || c.place.First.IsZero() {
		return f, first, err
	}
	if f != nil {
		f.f.Close()
	}
	f, first, _, err = c.look(own) // a rotation may have hidden the file
	return f, first, err
}

// look is one try of open; seen says that the place's file is there.
func (c *Cursor) look(own bool) (_ *file, _ time.Time, seen bool, _ error) {
	var best *file
	var begins time.Time
	present := false // the file that is written to has a record
	drop := func() {
		if best != nil {
			best.f.Close()
		}
	}
	for i := max(c.cfg.MaxFiles, 1) - 1; i >= 0; i-- {
		path := c.cfg.Path
		if i > 0 {
			path += "." + strconv.Itoa(i)
		}
		f, err := openFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			drop()
			return nil, time.Time{}, false, err
		}
		first, ok := f.firstTime()
		same := ok && first.Equal(c.place.First)
		switch {
		case ok && (seen && !same || same && own):
			drop()
			return f, first, true, nil
		case same:
			seen = true
		case ok && (best == nil || first.After(c.place.First) && !begins.After(c.place.First)):
			drop()
			best, begins = f, first
			present = present || i == 0
			continue
		}
		present = present || ok && i == 0
		f.f.Close()
	}
	if seen || best == nil || !begins.After(c.place.First) && !present {
		drop()
		return nil, time.Time{}, seen, nil
	}
	return best, begins, false, nil
}

// firstTime is that of the file's first record.
func (f *file) firstTime() (time.Time, bool) {
	if f.gzip {
		if first := f.members()[0].first; !first.IsZero() {
			return first, true
		}
	}
	r, err := f.reader(0)
	if err != nil {
		return time.Time{}, false
	}
	br := bufio.NewReaderSize(io.LimitReader(r, 2*maxRecord), 32<<10)
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return time.Time{}, false
		}
		if e, ok := parseRecord(line); ok {
			return e.Time, true
		}
	}
}
