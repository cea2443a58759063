package engine

import (
	"time"

	"github.com/moby/moby/api/types/events"
)

// Restarts are the pauses before restarts. A zero value means Docker's.
type Restarts struct {
	First time.Duration // before the first restart; 0: 100 ms. It is doubled by each run that was short
	Last  time.Duration // the longest pause; 0: 1 min
	Reset time.Duration // a run that is not short, after which the pauses begin anew; 0: 10 s
	// CrashLoop is how many short runs in a row make an event "crashloop"; 0: 5,
	// negative: none.
	CrashLoop int
}

// actionCrashLoop is an event of Hezi's own: a container ends again and again
// soon after its start. There is one until a run is not short.
const actionCrashLoop events.Action = "crashloop"

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (d *Restarts) first() time.Duration { return or(d.First, 100*time.Millisecond) }
func (d *Restarts) last() time.Duration  { return or(d.Last, time.Minute) }
func (d *Restarts) reset() time.Duration { return or(d.Reset, 10*time.Second) }
func (d *Restarts) loop() int            { return or(d.CrashLoop, 5) }

// after is the pause that follows one.
func (d *Restarts) after(pause time.Duration) time.Duration {
	return min(max(2*pause, d.first()), d.last())
}
