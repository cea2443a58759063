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
	"golang.org/x/sys/unix"

	"hezi/internal/api"
	"hezi/internal/daemon/config"
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
	rooms *rooms
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
	d.api = api.NewServer(d.log, func() bool { return d.conf.Load().Debug })
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
	started := make(chan error, 1)
	go func() { started <- d.start(ctx, c) }()
	err = d.wait(signals, started, failed)
	cancelStart := err != nil || d.rooms == nil
	if cancelStart {
		cancel()
		if d.rooms == nil && err == nil {
			err = <-started // a signal came first: the start is undone by its own error path
			if errors.Is(err, context.Canceled) {
				err = nil
			}
		}
	}
	return errors.Join(err, d.stop(srv))
}

func (d *daemon) greet(c *config.Config) {
	d.log.Info("hezid starts", "version", version.Version, "pid", os.Getpid(), "data-root", c.DataRoot, "exec-root", c.ExecRoot, "config", c.File)
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
func (d *daemon) start(ctx context.Context, c *config.Config) error {
	began := time.Now()
	r, err := d.open(ctx, c)
	if err != nil {
		return err
	}
	d.rooms = r
	d.api.Ready(r.backend)
	if err := notify("READY=1"); err != nil {
		d.log.Warn("service manager", "error", err)
	}
	d.log.Info("ready", "took", time.Since(began).Round(time.Millisecond))
	debug.FreeOSMemory()
	return nil
}

// wait returns nil when hezid was asked to end, and an error when it must.
func (d *daemon) wait(signals <-chan os.Signal, started, failed <-chan error) error {
	for {
		select {
		case err := <-started:
			if err != nil {
				return err
			}
			started = nil
		case err := <-failed:
			return err
		case sig := <-signals:
			switch sig {
			case unix.SIGPIPE:
			case unix.SIGHUP:
				if started == nil {
					d.reload()
				}
			default:
				d.log.Info("hezid was asked to end", "signal", sig.String())
				return nil
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
	d.conf.Store(next)
	d.applyLevel(next)
	d.rooms.reload(next)
	d.log.Info("configuration reloaded", "file", next.File)
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
	if err := srv.Shutdown(ctx); err != nil {
		d.log.Warn("requests did not end in time: they are cut off", "after", grace)
	}
	if d.rooms == nil {
		return nil
	}
	return d.rooms.close(ctx, d.conf.Load())
}
