// Package scope is the systemd cgroup driver's part in the engine and in the
// OCI command: it has systemd make a transient scope for each container
// (systemd.scope(5)) and tells it the limits. The keeper does not use it.
//
// # Who does what
//
//	keeper   prepares the container's init, which waits in its namespaces
//	engine   has systemd make SLICE/hezi-ID.scope with that process in it
//	keeper   writes the limits and device rules into the scope's directories,
//	         before the program runs, and adds the hierarchies of cgroup v1
//	         that systemd does not know
//	engine   sets as properties what could not hold while init worked
//
// So the keeper needs no D-Bus: a scope lives as long as processes are in it,
// whoever is restarted. It has Delegate=yes: systemd leaves what is below it
// alone, but goes on writing the scope's own limits, at a daemon-reload and at
// each change of a property. What it has a property for is therefore set both
// there and in the files, to the same values: all of them, since systemd
// resets those that it was not told.
//
// # Traps
//
//   - A scope needs a process when it is made, and is gone when the last one
//     ends. Nobody can rely on its directories after that: the keeper reads the
//     count of kills for lack of memory as the first thing, and where it is too late
//     what the slice's count tells (cgroup.Watcher).
//   - When the keeper is quicker to remove the directories, systemd may never
//     hear that the scope is empty: so it is stopped, too (End).
//   - DefaultTasksMax would limit containers that have no limit of processes.
//   - On cgroup v1 systemd allows every device unless DevicePolicy says
//     otherwise. On v2 its programs and the engine's are both asked, so the
//     engine's are enough.
//   - Quotas of processors are kept as whole percents: Rounded.
package scope

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	units "github.com/opencontainers/cgroups/systemd"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// DefaultSlice is where containers are that name no parent, as Docker's are.
const DefaultSlice = "system.slice"

// jobTime is how long systemd may take for a scope.
const jobTime = 30 * time.Second

// Slice checks a --cgroup-parent, and gives the slice and its directory below
// the root of each hierarchy. Error: InvalidArgument, in Docker's words.
func Slice(parent string) (slice, dir string, err error) {
	if parent == "" {
		parent = DefaultSlice
	}
	dir, err = units.ExpandSlice(parent)
	if err == nil && dir != "/" {
		err = cgroup.CheckParent(dir)
	}
	if err != nil || len(parent) <= len(".slice") {
		return "", "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\": %q is none", parent))
	}
	return parent, dir, nil
}

// Running says whether systemd runs this host (sd_booted(3)).
func Running() bool { return units.IsRunningSystemd() }

// Driver speaks with systemd. Its methods may be called from any goroutine.
type Driver struct {
	engine  string // in the scopes' descriptions
	unified bool

	mu   sync.Mutex // guards what follows, and is held while a connection is made
	conn *systemd.Conn
	// version of systemd; 0: not asked yet.
	version int
}

// New makes a driver that connects when it is first used. Engine tells the
// scopes of one engine from another's: its data root, or who else it is.
func New(engine string) *Driver {
	host, _ := cgroup.Probe() // without cgroups nothing starts, and the start says why
	return &Driver{engine: engine, unified: host.Version == 2}
}

// Check says why this driver cannot be used here.
func (d *Driver) Check(ctx context.Context) error {
	const what = "native.cgroupdriver=systemd: "
	const remedy = "write native.cgroupdriver=cgroupfs, or leave exec-opts out"
	if !Running() {
		return errors.New(what + "systemd does not run this machine (there is no /run/systemd/system): " + remedy)
	}
	if err := d.do(ctx, func(context.Context, *systemd.Conn) error { return nil }); err != nil {
		return fmt.Errorf(what+"%w: start dbus, or "+remedy, err)
	}
	return nil
}

// Close ends the connection.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.Close()
		d.conn = nil
	}
	return nil
}

// connection gives the one in use.
func (d *Driver) connection() (*systemd.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil && d.conn.Connected() {
		return d.conn, nil
	}
	if d.conn != nil {
		d.conn.Close()
		d.conn = nil
	}
	// A request's context would end the connection with it.
	conn, err := systemd.NewWithContext(context.Background())
	if err != nil {
		return nil, fmt.Errorf("cannot speak with systemd over D-Bus: %w", err)
	}
	if d.version == 0 {
		text, err := conn.GetManagerProperty("Version")
		if err == nil {
			d.version, err = versionOf(text)
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("cannot ask systemd for its version: %w", err)
		}
	}
	d.conn = conn
	return conn, nil
}

// versionOf reads such as `"252.39-1~deb12u2"`.
func versionOf(text string) (int, error) {
	text = strings.TrimLeft(text, `"v`)
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	return strconv.Atoi(text[:end])
}

// do calls systemd, once more on a new connection where the old one had gone,
// as it does when systemd or the bus is started anew.
func (d *Driver) do(ctx context.Context, call func(context.Context, *systemd.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, jobTime)
	defer cancel()
	for again := true; ; again = false {
		conn, err := d.connection()
		if err != nil {
			return err
		}
		err = call(ctx, conn)
		if !again || !errors.Is(err, dbus.ErrClosed) {
			return err
		}
	}
}

// Request is a scope to be made.
type Request struct {
	Unit      string // such as hezi-ID.scope
	Name      string // of the container
	Slice     string
	PID       int // of the container's prepared init
	Resources box.Resources
	Devices   cgroup.Devices
}

// Start has systemd make the scope of a container. One that was left is ended first.
func (d *Driver) Start(ctx context.Context, r Request) error {
	err := d.start(ctx, &r)
	for i := 0; failed(err, "UnitExists") && i < 3; i++ {
		if err := d.End(ctx, r.Unit); err != nil {
			return err
		}
		err = d.start(ctx, &r)
	}
	if err != nil {
		return fmt.Errorf("systemd cannot make the scope %s in %s: %w", r.Unit, r.Slice, err)
	}
	return nil
}

func (d *Driver) start(ctx context.Context, r *Request) error {
	return d.do(ctx, func(ctx context.Context, c *systemd.Conn) error {
		now, _ := r.Resources.Split()
		properties := append(d.fixed(r), d.limits(now)...)
		devices, err := d.devices(r.Devices)
		if err != nil {
			return err
		}
		done := make(chan string, 1)
		if _, err := c.StartTransientUnitContext(ctx, r.Unit, "replace", append(properties, devices...), done); err != nil {
			return err
		}
		return await(ctx, done)
	})
}

func await(ctx context.Context, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("its job ended as %q: see journalctl", result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Limit tells systemd all limits of a running container's scope: those that are
// not set in r are lifted. One that has just ended has none.
func (d *Driver) Limit(ctx context.Context, unit string, r box.Resources) error {
	err := d.do(ctx, func(ctx context.Context, c *systemd.Conn) error {
		return c.SetUnitPropertiesContext(ctx, unit, true, append(d.limits(r), d.io(r.IO)...)...)
	})
	if err != nil && !failed(err, "NoSuchUnit") {
		return fmt.Errorf("systemd cannot set the limits of %s: %w", unit, err)
	}
	return nil
}

// End kills what is in a scope and waits until systemd has forgotten it. One that
// is not there is no error.
func (d *Driver) End(ctx context.Context, unit string) error {
	err := d.do(ctx, func(ctx context.Context, c *systemd.Conn) error {
		err := c.KillUnitWithTarget(ctx, unit, systemd.All, 9)
		if failed(err, "NoSuchUnit") {
			return nil
		}
		done := make(chan string, 1)
		switch _, err = c.StopUnitContext(ctx, unit, "replace", done); {
		case failed(err, "NoSuchUnit"):
			return nil
		case err == nil:
			err = await(ctx, done)
		}
		if reset := c.ResetFailedUnitContext(ctx, unit); reset == nil || failed(reset, "NoSuchUnit") {
			return err
		} // else it is not failed, or it has no name any more
		return err
	})
	if err != nil {
		return fmt.Errorf("systemd cannot end the scope %s: %w", unit, err)
	}
	return nil
}

// Left are the containers of this engine that systemd has scopes of.
func (d *Driver) Left(ctx context.Context) (ids []string, _ error) {
	err := d.do(ctx, func(ctx context.Context, c *systemd.Conn) error {
		list, err := c.ListUnitsByPatternsContext(ctx, nil, []string{cgroup.ScopePattern})
		ids = nil
		for _, u := range list {
			if id := cgroup.IDOf(u.Name); id != "" && strings.HasSuffix(u.Description, d.mark()) {
				ids = append(ids, id)
			}
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return ids, err
}

// mark ends the descriptions of this engine's scopes.
func (d *Driver) mark() string { return " (hezi, " + d.engine + ")" }

// failed says whether systemd answered with that error.
func failed(err error, name string) bool {
	var answer dbus.Error
	return errors.As(err, &answer) && answer.Name == "org.freedesktop.systemd1."+name
}
