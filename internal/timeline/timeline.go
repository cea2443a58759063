// Package timeline says what the phases of a piece of work took, to who asks for it
// before: the work carries a record in its context. Nobody asks as a rule, and then
// there is no record, and no clock is read.
package timeline

import (
	"context"
	"time"
)

// Phase is a part of a piece of work. Name is a token (RFC 9110, 5.6.2), Does a few
// words without commas, semicolons and quotes.
type Phase struct {
	Name string
	Does string
	Took time.Duration
}

// Record collects phases, each of which ends where the next one begins. It belongs to
// one goroutine at a time; nil is none.
type Record struct {
	last   time.Time
	phases []Phase
}

type key struct{}

// New begins a record, which the context carries.
func New(ctx context.Context) (context.Context, *Record) {
	r := &Record{last: time.Now()}
	return context.WithValue(ctx, key{}, r), r
}

// Of is the record of a context; nil: nobody asked.
func Of(ctx context.Context) *Record {
	r, _ := ctx.Value(key{}).(*Record)
	return r
}

// Mark ends a phase.
func (r *Record) Mark(name, does string) {
	if r == nil {
		return
	}
	now := time.Now()
	r.phases = append(r.phases, Phase{name, does, now.Sub(r.last)})
	r.last = now
}

// Include ends a phase that another process worked in, and told phases of: what they
// leave of it is called name.
func (r *Record) Include(phases []Phase, name, does string) {
	if r == nil {
		return
	}
	r.phases = append(r.phases, phases...)
	r.Mark(name, does)
	for _, p := range phases {
		r.phases[len(r.phases)-1].Took -= p.Took
	}
}

// Phases are those that have ended.
func (r *Record) Phases() []Phase {
	if r == nil {
		return nil
	}
	return r.phases
}
