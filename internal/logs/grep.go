package logs

import (
	"bytes"
	"context"
	"errors"
	"regexp"
)

// maxJoined bounds, in bytes, what is held of a line of several records until it
// is known whether it matches; of a longer one this much is looked at.
const maxJoined = 1 << 20

// grep passes records of lines that match. A line's records are held until its end.
type grep struct {
	re   *regexp.Regexp
	held map[string]*heldLine // by stream
}

type heldLine struct {
	text    []byte
	entries []Entry
	passes  bool // it matched already: the rest needs no look
	fails   bool // as much of it as is looked at does not match
}

func newGrep(re *regexp.Regexp) *grep { return &grep{re: re, held: map[string]*heldLine{}} }

// pass calls fn for e, and for what was held, once it is known to match.
func (g *grep) pass(e *Entry, fn func(*Entry) error) error {
	ends := bytes.HasSuffix(e.Line, []byte("\n"))
	h := g.held[e.Stream]
	switch {
	case g.re == nil:
		return fn(e)
	case h == nil && ends:
		if !g.re.Match(e.Line[:len(e.Line)-1]) {
			return nil
		}
		return fn(e)
	case h == nil:
		h = &heldLine{}
		g.held[e.Stream] = h
	}
	if ends {
		delete(g.held, e.Stream)
	}
	if h.passes {
		return fn(e)
	}
	if h.fails {
		return nil
	}
	h.text = append(h.text, e.Line...)
	kept := *e
	kept.Line = bytes.Clone(e.Line)
	h.entries = append(h.entries, kept)
	if !ends && len(h.text) < maxJoined {
		return nil
	}
	if !g.re.Match(bytes.TrimSuffix(h.text, []byte("\n"))) {
		h.fails, h.entries, h.text = true, nil, nil
		return nil
	}
	h.passes = true
	for i := range h.entries {
		if err := fn(&h.entries[i]); err != nil {
			return err
		}
	}
	h.entries, h.text = nil, nil
	return nil
}

// finish judges lines that have not ended.
func (g *grep) finish(fn func(*Entry) error) error {
	for stream, h := range g.held {
		delete(g.held, stream)
		if h.passes || h.fails || !g.re.Match(h.text) {
			continue
		}
		for i := range h.entries {
			if err := fn(&h.entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// readMatching is Read with a Grep: the last Tail of what matches.
func (s *Snapshot) readMatching(ctx context.Context, q Query, fn func(*Entry) error) error {
	all := q
	all.Tail, all.Grep = -1, nil
	skip := 0
	if q.Tail >= 0 {
		total, g := 0, newGrep(q.Grep)
		count := func(*Entry) error { total++; return nil }
		if err := errors.Join(s.Read(ctx, all, func(e *Entry) error { return g.pass(e, count) }), g.finish(count)); err != nil {
			return err
		}
		s.Damaged = Damage{}
		skip = total - q.Tail
	}
	g := newGrep(q.Grep)
	give := func(e *Entry) error {
		if skip--; skip >= 0 {
			return nil
		}
		return fn(e)
	}
	if err := s.Read(ctx, all, func(e *Entry) error { return g.pass(e, give) }); err != nil {
		return err
	}
	return g.finish(give)
}
