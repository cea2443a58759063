package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hezi/internal/cli/term"
)

// output writes an archive to a file, or to standard output when path is "".
// A file gets its name only when all of it is there. what is what failed:
// "save image".
func output(ctx context.Context, a *App, path, what string, open func() (io.ReadCloser, error)) error {
	if path == "" && term.IsTerminal(a.Out) {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	out := a.Out
	finish := func(err error) error { return err }
	if path != "" {
		var err error
		if out, finish, err = create(path); err != nil {
			return fmt.Errorf("failed to %s: %w", what, err)
		}
	}
	a.catchSignals() // what is half written goes away
	body, err := open()
	if err != nil {
		return finish(err)
	}
	defer body.Close()
	stop := context.AfterFunc(ctx, func() { body.Close() })
	defer stop()
	_, err = io.Copy(out, body)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("failed to %s: the engine broke off: its log says why", what)
	case err != nil:
		err = fmt.Errorf("failed to %s: %w", what, err)
	}
	return finish(err)
}

// create opens what will be path. finish gives it its name, or removes it
// after an error. A device or a pipe is written to as it is.
func create(path string) (_ *os.File, finish func(error) error, _ error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return nil, nil, fmt.Errorf("%s is a directory: name a file", path)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, err
		}
		return f, func(err error) error { return errors.Join(err, f.Close()) }, nil
	} else if err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target // the file that a link leads to is replaced, not the link
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".hezi-"+filepath.Base(path)+"-") // of mode 0600, as Docker's
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(path))
		}
		return nil, nil, err
	}
	return f, func(err error) error {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			_ = os.Remove(f.Name()) // err says what matters
		}
		return err
	}, nil
}
