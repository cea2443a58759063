package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// minRate is how many bytes a mirror must bring in a second, on the average
// over the time that it may be silent. Only the time counts in which we wait
// for it.
const minRate = 8 << 10

var (
	errSilent = errors.New("nothing arrived for too long")
	errSlow   = errors.New("too slow")
)

// silent is errSilent with how long that was.
type silent struct{ after time.Duration }

func (s *silent) Error() string   { return fmt.Sprintf("nothing arrived for %s", s.after) }
func (s *silent) Is(t error) bool { return t == errSilent }

// guarded is a body whose reads end if nothing arrives, or too little. The
// time runs only within Read: a slow reader is no fault of the registry.
type guarded struct {
	rc       io.ReadCloser
	patience time.Duration
	paced    bool // it may be too slow
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	ctx      context.Context

	waited time.Duration
	got    int64 // bytes, in waited
}

func guard(ctx context.Context, cancel context.CancelCauseFunc, rc io.ReadCloser, patience time.Duration, paced bool) *guarded {
	return &guarded{rc: rc, patience: patience, paced: paced, cancel: cancel, ctx: ctx, timer: stopped(patience, cancel)}
}

// stopped is a timer, not yet begun, that cancels what is silent.
func stopped(patience time.Duration, cancel context.CancelCauseFunc) *time.Timer {
	t := time.AfterFunc(patience, func() { cancel(errSilent) })
	t.Stop()
	return t
}

func (g *guarded) Read(p []byte) (int, error) {
	g.timer.Reset(g.patience)
	began := time.Now()
	n, err := g.rc.Read(p)
	g.timer.Stop()
	g.waited += time.Since(began)
	g.got += int64(n)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(g.ctx), errSilent):
		err = &silent{g.patience}
	case err == nil && g.paced && g.waited >= g.patience:
		if float64(g.got) < minRate*g.waited.Seconds() {
			err = fmt.Errorf("%w: %d bytes in %s", errSlow, g.got, g.waited.Round(time.Millisecond))
		}
		g.waited, g.got = 0, 0
	}
	return n, err
}

func (g *guarded) Close() error {
	g.timer.Stop()
	err := g.rc.Close()
	g.cancel(nil)
	return err
}

// taken is a body on its way to a host: the time runs while the host takes
// what it was given, not while it is read from us.
type taken struct {
	rc       io.ReadCloser
	patience time.Duration
	timer    *time.Timer
}

func (t *taken) Read(p []byte) (int, error) {
	t.timer.Stop()
	n, err := t.rc.Read(p)
	if err == nil {
		t.timer.Reset(t.patience)
	}
	return n, err
}

func (t *taken) Close() error {
	t.timer.Stop()
	return t.rc.Close()
}
