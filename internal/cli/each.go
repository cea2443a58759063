package cli

import (
	"context"
	"errors"
)

// each does something to every name, up to fifty at once, prints the names it
// was done to in their order, and returns what went wrong. An op that returns
// errSkip is neither printed nor an error.
func (a *App) each(ctx context.Context, names []string, op func(ctx context.Context, name string) error) error {
	results := make([]chan error, len(names))
	slots := make(chan struct{}, 50)
	for i := range names {
		results[i] = make(chan error, 1)
	}
	go func() {
		for i, name := range names {
			slots <- struct{}{}
			go func() {
				results[i] <- op(ctx, name)
				<-slots
			}()
		}
	}()
	var errs []error
	for i, name := range names {
		switch err := <-results[i]; {
		case err == nil:
			a.println(name)
		case !errors.Is(err, errSkip):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var errSkip = errors.New("nothing to do")
