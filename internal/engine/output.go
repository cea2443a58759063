package engine

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/keeper"
	"hezi/internal/logs/options"
	"hezi/internal/logs/ship"
)

// output is where containers' lines go.
type output struct{ *records }

// shipper sends the lines of containers with a remote log driver. ship.Room has it.
type shipper interface {
	Follow(ship.Container)
	Release(id string) error
}

// shipLog has a container's lines sent, where its driver is for that.
func (e output) shipLog(r *record) {
	driver, opts := e.logOptions(r)
	if e.o.Shipper == nil || !options.Remote(driver) || r.Started.IsZero() {
		return
	}
	f, err := options.Read(driver, opts) // it was checked when the container was made
	if err != nil {
		e.o.Log.Error("a container's lines are not sent", "container", r.ID, "driver", driver, "error", err)
		return
	}
	e.o.Shipper.Follow(ship.Container{Driver: driver, Info: *e.logInfo(r), MaxFiles: f.MaxFiles})
}

// releaseLog keeps the lines of a container that is removed until they are sent.
func (e output) releaseLog(r *record) error {
	if driver, _ := e.logOptions(r); e.o.Shipper == nil || !options.Remote(driver) {
		return nil
	}
	return e.o.Shipper.Release(r.ID)
}

// completeLog has a container say which log driver and options it has.
func (e output) completeLog(h *container.HostConfig) {
	d := e.o.Defaults
	def := d.LogDriver
	if def == "" {
		def = options.JSONFile
	}
	h.LogConfig.Type, h.LogConfig.Config = options.Merge(h.LogConfig.Type, h.LogConfig.Config, def, d.LogOptions)
}

// checkLog refuses options that the driver has not, and attributes or a tag that
// cannot be made for this container.
func (e output) checkLog(r *record) error {
	l := r.HostConfig.LogConfig
	if err := options.Check(l.Type, l.Config); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	if _, err := e.logConfig(r); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return nil
}

// logOptions are a container's driver and options; those of records that older
// versions made are completed as they were then.
func (e output) logOptions(r *record) (string, map[string]string) {
	h := container.HostConfig{LogConfig: r.HostConfig.LogConfig}
	if h.LogConfig.Config == nil || h.LogConfig.Type == "" {
		e.completeLog(&h)
	}
	return h.LogConfig.Type, h.LogConfig.Config
}

// logInfo is what the tag of a container's lines may say.
func (e output) logInfo(r *record) *options.Info {
	_, opts := e.logOptions(r)
	i := &options.Info{
		Config: opts, ContainerID: r.ID, ContainerName: "/" + r.Name, ContainerImageID: r.ImageID, ContainerImageName: r.Config.Image,
		ContainerCreated: r.Created, ContainerEnv: r.Config.Env, ContainerLabels: r.Config.Labels, DaemonName: "hezi", LogPath: e.logFile(r),
	}
	if line := slices.Concat(r.Config.Entrypoint, r.Config.Cmd); len(line) > 0 {
		i.ContainerEntrypoint, i.ContainerArgs = line[0], line[1:]
	}
	return i
}

// logFile is where a container's lines are written; "" with the driver none.
func (e output) logFile(r *record) string {
	switch driver, _ := e.logOptions(r); driver {
	case options.None:
		return ""
	case options.JSONFile:
		return filepath.Join(e.folder(r.ID), r.ID+"-json.log")
	}
	return filepath.Join(e.folder(r.ID), "local-logs", "container.log")
}

// logConfig is where a container's output goes.
func (e output) logConfig(r *record) (keeper.LogConfig, error) {
	driver, opts := e.logOptions(r)
	c := keeper.LogConfig{Driver: driver, Path: e.logFile(r)}
	if driver == options.None {
		return c, nil
	}
	if options.Remote(driver) {
		c.Driver = options.Local
	}
	f, err := options.Read(driver, opts)
	if err == nil {
		c.Attrs, err = e.logInfo(r).FileAttributes()
	}
	if err != nil {
		return c, fmt.Errorf("failed to initialize logging driver: %w", err)
	}
	c.MaxSize, c.MaxFiles, c.Compress, c.Buffer = f.MaxSize, f.MaxFiles, f.Compress, f.Buffer
	return c, nil
}

// unreadable says why `logs` has nothing to show; "": it has.
func (e output) unreadable(r *record) string {
	driver, opts := e.logOptions(r)
	if driver == options.None {
		return "the container was made with --log-driver none"
	}
	if f, err := options.Read(driver, opts); err == nil && f.Unread {
		return "the container was made with --log-opt cache-disabled"
	}
	return ""
}
