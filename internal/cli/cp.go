package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/go-archive"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
)

func newCp(a *App) *cobra.Command {
	c := copying{a: a}
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\thezi cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH\n\thezi cp [OPTIONS] CONTAINER:SRC_PATH CONTAINER:DEST_PATH",
		Long: `Copy files/folders between a container and the local filesystem, or between two containers

Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout.`, Args: exactArgs(2)}
	f := cmd.Flags()
	f.BoolVarP(&c.follow, "follow-link", "L", false, "Always follow symlinks in SRC_PATH")
	f.BoolVarP(&c.owned, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if !f.Changed("quiet") {
			c.quiet = !term.IsTerminal(a.Out)
		}
		return c.run(ctx, engine, args[0], args[1])
	})
	return cmd
}

// copying is one call of cp.
type copying struct {
	a                    *App
	engine               *endpoint.Connection
	follow, owned, quiet bool
}

// place is one of cp's two: a path here, or in a container. "-" is a stream.
type place struct{ container, path string }

// parsePlace reads CONTAINER:PATH. A path here that has a colon begins with . or /.
func parsePlace(arg string) place {
	container, path, ok := strings.Cut(arg, ":")
	if !ok || filepath.IsAbs(arg) || strings.HasPrefix(container, ".") {
		return place{path: arg}
	}
	return place{container, path}
}

func (p place) String() string {
	if p.container == "" {
		return p.path
	}
	return p.container + ":" + p.path
}

func (c *copying) run(ctx context.Context, engine *endpoint.Connection, from, to string) error {
	switch {
	case from == "":
		return errors.New("source can not be empty")
	case to == "":
		return errors.New("destination can not be empty")
	}
	c.engine = engine
	source, target := parsePlace(from), parsePlace(to)
	if source.container == "" && target.container == "" {
		return errors.New("must specify at least one container source: write CONTAINER:PATH")
	}
	c.a.catchSignals()
	body, info, err := c.open(ctx, source, target)
	if err != nil {
		return err
	}
	defer body.Close()
	stop := context.AfterFunc(ctx, func() { body.Close() })
	defer stop()
	if target.container == "" {
		err = c.here(ctx, body, info, target)
	} else {
		err = c.there(ctx, body, info, target)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// open opens the source as an archive.
func (c *copying) open(ctx context.Context, source, target place) (io.ReadCloser, archive.CopyInfo, error) {
	var info archive.CopyInfo
	switch {
	case source.container != "":
		return c.openThere(ctx, source)
	case source.path == "-":
		return io.NopCloser(c.a.In), info, nil
	}
	p, err := absolute(source.path)
	if err == nil {
		info, err = archive.CopyInfoSourcePath(p, c.follow)
	}
	if err != nil {
		return nil, info, err
	}
	return &local{info: info}, info, nil
}

// local is an archive of files here, which begins when it is read: until then
// the copy may turn out to be a mistake.
type local struct {
	info archive.CopyInfo
	io.ReadCloser
}

func (l *local) Read(b []byte) (int, error) {
	if l.ReadCloser == nil {
		var err error
		if l.ReadCloser, err = archive.TarResource(l.info); err != nil {
			l.ReadCloser = nil
			return 0, err
		}
	}
	return l.ReadCloser.Read(b)
}

func (l *local) Close() error {
	if l.ReadCloser == nil {
		return nil
	}
	return l.ReadCloser.Close()
}

// absolute keeps what the end of a path says.
func absolute(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	return archive.PreserveTrailingDotOrSeparator(abs, p), nil
}

func (c *copying) openThere(ctx context.Context, source place) (io.ReadCloser, archive.CopyInfo, error) {
	p, rebase := source.path, ""
	if c.follow {
		if st, err := c.engine.ContainerStatPath(ctx, source.container, client.ContainerStatPathOptions{Path: p}); err == nil && st.Stat.Mode&fs.ModeSymlink != 0 {
			p, rebase = archive.GetRebaseName(p, linkTarget(p, st.Stat.LinkTarget))
		}
	}
	got, err := c.engine.CopyFromContainer(ctx, source.container, client.CopyFromContainerOptions{SourcePath: p})
	if err != nil {
		return nil, archive.CopyInfo{}, err
	}
	body := got.Content
	if rebase != "" {
		_, base := archive.SplitPathDirEntry(p)
		renamed := archive.RebaseArchiveEntries(body, base, rebase)
		body = both{renamed, got.Content}
	}
	return body, archive.CopyInfo{Path: p, Exists: true, IsDir: got.Stat.Mode.IsDir(), RebaseName: rebase}, nil
}

// both closes what is read and what that is read from.
type both struct {
	io.ReadCloser
	under io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.under.Close()) }

// linkTarget is where a link in a container leads.
func linkTarget(link, target string) string {
	if path.IsAbs(target) {
		return target
	}
	dir, _ := archive.SplitPathDirEntry(link)
	return path.Join(dir, target)
}

// here writes an archive to the local file system, or as it is to the standard output.
func (c *copying) here(ctx context.Context, body io.Reader, info archive.CopyInfo, target place) error {
	if target.path == "-" {
		if term.IsTerminal(c.a.Out) {
			return errors.New("cowardly refusing to write an archive to a terminal: redirect it, or give a path")
		}
		_, err := io.Copy(c.a.Out, body)
		return err
	}
	to, err := absolute(target.path)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(filepath.Clean(to)); dir != "" {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
	}
	if st, err := os.Stat(to); err == nil && st.Mode()&(fs.ModeDevice|fs.ModeIrregular) != 0 {
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file", to)
	}
	counted, done := c.progress(ctx, "Copying from container - ", body)
	err = archive.CopyTo(counted, info, to)
	done(err, target.path)
	return err
}

// there has an archive unpacked in a container.
func (c *copying) there(ctx context.Context, body io.Reader, info archive.CopyInfo, target place) error {
	to, err := c.target(ctx, target)
	if err != nil {
		return err
	}
	dir := to.Path
	if info.Path == "" { // a stream
		if !to.IsDir {
			return fmt.Errorf("destination %q must be a directory", target)
		}
	} else {
		prepared, err := prepare(&dir, body, info, to)
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		defer prepared.Close()
		body = prepared
	}
	counted, done := c.progress(ctx, "Copying to container - ", body)
	_, err = c.engine.CopyToContainer(ctx, target.container, client.CopyToContainerOptions{DestinationPath: dir, Content: counted, CopyUIDGID: c.owned})
	done(err, target.String())
	return err
}

func prepare(dir *string, body io.Reader, info, to archive.CopyInfo) (prepared io.ReadCloser, err error) {
	*dir, prepared, err = archive.PrepareArchiveCopy(body, info, to)
	return prepared, err
}

// target says what there is in a container to copy to. What cannot be found out
// is left to the engine: what is not there yet can be made.
func (c *copying) target(ctx context.Context, target place) (archive.CopyInfo, error) {
	info := archive.CopyInfo{Path: target.path}
	st, err := c.engine.ContainerStatPath(ctx, target.container, client.ContainerStatPathOptions{Path: target.path})
	if err != nil {
		return info, nil
	}
	if st.Stat.Mode&fs.ModeSymlink != 0 {
		info.Path = linkTarget(target.path, st.Stat.LinkTarget)
		if st, err = c.engine.ContainerStatPath(ctx, target.container, client.ContainerStatPathOptions{Path: info.Path}); err != nil {
			return info, nil
		}
	}
	if st.Stat.Mode&(fs.ModeDevice|fs.ModeIrregular) != 0 {
		return info, fmt.Errorf("destination %q must be a directory or a regular file", target)
	}
	info.Exists, info.IsDir = true, st.Stat.Mode.IsDir()
	return info, nil
}

// counter counts what is read.
type counter struct {
	io.Reader
	n atomic.Int64
}

func (r *counter) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n.Add(int64(n))
	return n, err
}

// progress shows how much has been copied, on a terminal, and at the end where to.
func (c *copying) progress(ctx context.Context, what string, body io.Reader) (io.Reader, func(err error, to string)) {
	if c.quiet {
		return body, func(error, string) {}
	}
	r := &counter{Reader: body}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	size := func() string { return units.HumanSizeWithPrecision(float64(r.n.Load()), 3) }
	go func() {
		defer close(ended)
		if !term.IsTerminal(c.a.Err) {
			return
		}
		const clear = "\r\x1b[K"
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				fmt.Fprint(c.a.Err, clear)
				return
			case <-tick.C:
				fmt.Fprint(c.a.Err, clear, what, size())
			}
		}
	}()
	return r, func(err error, to string) {
		cancel()
		<-ended
		if err == nil {
			fmt.Fprintf(c.a.Err, "Successfully copied %s to %s\n", size(), to)
		}
	}
}
