package term

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	mobyterm "github.com/moby/term"
)

// ErrDetached ends a Pump whose user typed the detach keys.
var ErrDetached = errors.New("detached")

// ErrHungUp ends a Pump whose terminal is gone.
var ErrHungUp = errors.New("the terminal hung up")

// defaultDetachKeys are ctrl-p ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// CheckDetachKeys refuses keys that cannot be typed.
func CheckDetachKeys(keys string) error {
	if keys == "" {
		return nil
	}
	if _, err := mobyterm.ToBytes(keys); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid detach keys (%s): %v; write for example ctrl-p,ctrl-q or ctrl-x,x", keys, err))
	}
	return nil
}

// Attachment is a hijacked connection and what of it is wanted here.
//
// With a terminal (TTY) output is one raw stream and input goes through the
// detector of the detach keys; without one output is Docker's multiplexed
// stream. Where a stream is not wanted its field is nil.
type Attachment struct {
	Conn       client.HijackedResponse
	TTY        bool
	DetachKeys string // empty for ctrl-p,ctrl-q

	In       io.Reader
	Out, Err io.Writer

	// Exit is the exit code once the stream has ended with one, as that of an
	// exec does which was started at once.
	Exit *int
}

// Pump copies until the output ends, the user detaches (ErrDetached), the
// terminal hangs up (ErrHungUp), or ctx ends. The end of another input closes
// only the connection's sending half.
func (s *Streams) Pump(ctx context.Context, a *Attachment) error {
	restore := func() {}
	if a.In != nil && a.TTY {
		keys := defaultDetachKeys
		if a.DetachKeys != "" {
			var err error
			if keys, err = mobyterm.ToBytes(a.DetachKeys); err != nil {
				return CheckDetachKeys(a.DetachKeys)
			}
		}
		var err error
		if restore, err = s.Raw(); err != nil {
			return err
		}
		a.In = mobyterm.NewEscapeProxy(a.In, keys)
	}
	defer restore()
	raw := a.In != nil && a.TTY && IsTerminal(s.In) && os.Getenv("NORAW") == ""

	if a.In == nil && !a.TTY && (a.Out != nil || a.Err != nil) {
		return a.receiveOnly(ctx)
	}
	output := a.receive(restore)
	input, detached := a.send()
	select {
	case err := <-output:
		return err
	case <-input:
		if raw { // has no key for an end of file
			return ErrHungUp
		}
	case <-detached:
		return ErrDetached
	case <-ctx.Done():
		return ctx.Err()
	}
	if output == nil {
		return nil
	}
	select {
	case err := <-output:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receiveOnly copies the output in the caller's goroutine: a short command has
// no time for more.
func (a *Attachment) receiveOnly(ctx context.Context) error {
	_ = a.Conn.CloseWrite() // a connection that is gone is seen next
	stop := context.AfterFunc(ctx, a.Conn.Close)
	defer stop()
	err := a.demultiplex(orDiscard(a.Out), orDiscard(a.Err))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// receive copies the output, and gives the terminal back at its end so that
// what is printed next looks right. The channel is nil when none is wanted.
func (a *Attachment) receive(restore func()) <-chan error {
	if a.Out == nil && a.Err == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		var err error
		if a.TTY {
			_, err = io.Copy(a.Out, a.Conn.Reader)
			restore()
		} else {
			err = a.demultiplex(orDiscard(a.Out), orDiscard(a.Err))
		}
		done <- err
	}()
	return done
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// send copies the input and then closes the sending half: the program reads an
// end of file, and its output goes on.
func (a *Attachment) send() (done, detached <-chan struct{}) {
	doneC, detachedC := make(chan struct{}), make(chan struct{})
	go func() {
		if a.In != nil {
			_, err := io.Copy(a.Conn.Conn, a.In)
			var escape mobyterm.EscapeError
			if errors.As(err, &escape) {
				close(detachedC)
				return
			}
			// Another error is seen by the receiver too, which reports it.
		}
		_ = a.Conn.CloseWrite() // a connection that is gone is seen by the receiver
		close(doneC)
	}()
	return doneC, detachedC
}
