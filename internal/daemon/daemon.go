package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	clog "github.com/containerd/log"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"hezi/internal/api"
	"hezi/internal/daemon/config"
	"hezi/internal/disk"
	"hezi/internal/engine"
	"hezi/internal/image/registry"
	"hezi/internal/version"
)

// Main runs hezid and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	c, err := config.Load(args)
	if help, ok := errors.AsType[*config.ErrHelp](err); ok {
		_, _ = io.WriteString(stdout, help.Text) // nobody to tell
		return 0
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "hezid:", err)
		return 1
	case c.ShowVersion:
		fmt.Fprintf(stdout, "hezid version %s, API %s (%s and newer)\n", version.Version, version.API, version.MinAPI)
		return 0
	case c.Validate:
		if err := registry.CheckHosts(nil); err != nil {
			fmt.Fprintln(stderr, "hezid:", err)
			return 1
		}
		fmt.Fprintln(stdout, "configuration OK")
		return 0
	}
	d := newDaemon(c, args, stderr)
	if err := d.run(); err != nil {
		d.log.Error("hezid ends", "error", err)
		return 1
	}
	return 0
}

// daemon is the running hezid.
type daemon struct {
	args  []string
	conf  atomic.Pointer[config.Config]
	level *slog.LevelVar
	log   *slog.Logger
	api   *api.Server
	rooms *rooms // of the goroutine of run
}

func newDaemon(c *config.Config, args []string, stderr io.Writer) *daemon {
	d := &daemon{args: args, level: new(slog.LevelVar)}
	d.conf.Store(c)
	o := &slog.HandlerOptions{Level: d.level}
	if c.LogFormat == "json" {
		d.log = slog.New(slog.NewJSONHandler(stderr, o))
	} else {
		d.log = slog.New(slog.NewTextHandler(stderr, o))
	}
	slog.SetDefault(d.log)
	d.applyLevel(c)
	d.api = api.NewServer(d.log, func() bool { return d.conf.Load().Debug },
		func(err error) error { return disk.Explain(d.conf.Load().DataRoot, err) })
	return d
}

// applyLevel sets the level of our log and of the libraries' that have one.
func (d *daemon) applyLevel(c *config.Config) {
	level, err := c.Level()
	if err != nil {
		d.log.Warn("log level", "error", err)
		return
	}
	d.level.Set(level)
	library := "error"
	if level <= slog.LevelDebug {
		library = "warning"
	}
	if err := clog.SetLevel(library); err != nil {
		d.log.Warn("log level of containerd's libraries", "error", err)
	}
}

// run is the daemon's life, from the first check to the last close.
func (d *daemon) run() error {
	c := d.conf.Load()
	if os.Geteuid() != 0 {
		return errors.New("hezid needs root: start it with sudo or as a system service")
	}
	unix.Umask(0o022)
	debug.SetGCPercent(50) // the heap is small and memory counts more than the collector's time
	signals := make(chan os.Signal, 8)
	// SIGPIPE is taken, not ignored: ignoring would be inherited by the keeper
	// and by every container.
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(signals)
	if err := makeRoots(c); err != nil {
		return err
	}
	self, err := claim(c.ExecRoot, c.PIDFile)
	if err != nil {
		return err
	}
	defer d.closing("pid file", self.release)
	d.greet(c)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	listeners, err := listen(ctx, c, d.log)
	if err != nil {
		return err
	}
	srv := d.httpServer()
	failed := d.serve(srv, listeners)
	defer d.closing("listeners", srv.Close)
	started := make(chan opened, 1)
	go func() { started <- d.start(ctx, c) }()
	begun, err := d.wait(signals, started, failed)
	if !begun { // an end came before the start was through: it is undone
		cancel()
		o := <-started
		d.rooms = o.rooms
		if err == nil && !errors.Is(o.err, context.Canceled) {
			err = o.err
		}
	}
	return errors.Join(err, d.stop(srv))
}

// opened is what a start came to.
type opened struct {
	rooms *rooms
	err   error
}

func (d *daemon) greet(c *config.Config) {
	d.log.Info("hezid starts", "version", version.Version, "pid", os.Getpid(), "data-root", c.DataRoot, "exec-root", c.ExecRoot, "config", c.File)
	d.note(c)
	if len(c.Overridden) > 0 {
		d.log.Info("flags override the configuration file", "keys", strings.Join(c.Overridden, ", "), "file", c.File)
	}
}

func (d *daemon) closing(what string, f func() error) {
	if err := f(); err != nil {
		d.log.Warn("closing the "+what, "error", err)
	}
}

// httpServer speaks HTTP/1.1: streams take their connection out of HTTP.
func (d *daemon) httpServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: d.api, ConnContext: api.ConnContext, Protocols: protocols,
		ReadHeaderTimeout: time.Minute, IdleTimeout: 10 * time.Minute,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// serve accepts on every listener; what ends one is sent.
func (d *daemon) serve(srv *http.Server, listeners []net.Listener) <-chan error {
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("listener %s: %w", l.Addr(), err)
			}
		}()
	}
	return failed
}

// start wires the rooms, restores what ran, and lets requests through.
func (d *daemon) start(ctx context.Context, c *config.Config) opened {
	began := time.Now()
	r, err := d.open(ctx, c)
	if err != nil {
		return opened{err: err}
	}
	d.api.Ready(r.backend)
	if err := notify("READY=1"); err != nil {
		d.log.Warn("service manager", "error", err)
	}
	d.log.Info("ready", "took", time.Since(began).Round(time.Millisecond))
	debug.FreeOSMemory()
	return opened{rooms: r}
}

// wait returns a nil error when hezid was asked to end, and another when it
// must; begun says whether the start's result was received.
func (d *daemon) wait(signals <-chan os.Signal, started <-chan opened, failed <-chan error) (begun bool, err error) {
	asked := false // for a reload, while the start was under way
	for {
		select {
		case o := <-started:
			begun, started, d.rooms = true, nil, o.rooms
			if o.err != nil {
				return true, o.err
			}
			if asked { // requests were served, and the file may be newer than what was read
				d.reload()
			}
		case err := <-failed:
			return begun, err
		case sig := <-signals:
			switch sig {
			case unix.SIGPIPE:
			case unix.SIGHUP:
				if asked = true; begun {
					d.reload()
				}
			default:
				d.log.Info("hezid was asked to end", "signal", sig.String())
				return begun, nil
			}
		}
	}
}

// reload applies what of the configuration can change without a restart.
func (d *daemon) reload() {
	if err := notify(reloading()); err != nil {
		d.log.Warn("service manager", "error", err)
	}
	defer func() {
		if err := notify("READY=1"); err != nil {
			d.log.Warn("service manager", "error", err)
		}
	}()
	next, needRestart, err := d.conf.Load().Reload(d.args)
	if err != nil {
		d.log.Error("the configuration was not reloaded, the old one stays", "error", err)
		return
	}
	if len(needRestart) > 0 {
		d.log.Warn("these keys take effect at the next start of hezid", "keys", strings.Join(needRestart, ", "))
	}
	d.note(next)
	d.conf.Store(next)
	d.applyLevel(next)
	d.rooms.reload(next)
	d.log.Info("configuration reloaded", "file", next.File)
}

// note tells what was read otherwise than it is written.
func (d *daemon) note(c *config.Config) {
	for _, n := range c.Notes {
		d.log.Warn(n)
	}
}

// stop ends the service: no new requests, those in flight may finish, streams
// end at once, containers run on.
func (d *daemon) stop(srv *http.Server) error {
	if err := notify("STOPPING=1"); err != nil {
		d.log.Warn("service manager", "error", err)
	}
	grace := time.Duration(d.conf.Load().ShutdownTimeout) * time.Second
	ctx, cancel := context.WithCancel(context.Background())
	if grace >= 0 {
		ctx, cancel = context.WithTimeout(context.Background(), grace)
	}
	defer cancel()
	d.api.EndStreams()
	if d.rooms != nil && d.rooms.backend.Views != nil && !d.conf.Load().LiveRestore {
		d.stopContainers(ctx)
	}
	if err := srv.Shutdown(ctx); err != nil {
		d.log.Warn("requests did not end in time: they are cut off", "after", grace)
	}
	if d.rooms == nil {
		return nil
	}
	err := d.rooms.close()
	if d.rooms.dismantle != nil {
		d.closing("keeper and the network of no container", d.rooms.dismantle)
	}
	return err
}

// stopContainers ends every running container with its own signal and timeout:
// live-restore is off.
func (d *daemon) stopContainers(ctx context.Context) {
	list, err := d.rooms.backend.Views.List(ctx, engine.ListOptions{})
	if err != nil {
		d.log.Warn("containers are left running: they cannot be listed", "error", err)
		return
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for _, c := range list {
		g.Go(func() error {
			if err := d.rooms.backend.Containers.Stop(ctx, c.ID, engine.StopOptions{}); err != nil {
				d.log.Warn("a container was left running", "container", c.ID, "error", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		d.log.Warn("stop containers", "error", err)
	}
}
