package dockerroot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// keptContainer is config.v2.json.
type keptContainer struct {
	ID, Name, Image, Driver string
	Created                 time.Time
	State                   struct {
		Running, Dead, RemovalInProgress bool
		Pid                              int
	}
	ImageManifest   *struct{} // with the containerd image store
	Config          *keptConfig
	NetworkSettings struct{ Networks map[string]*keptEndpoint }
	MountPoints     map[string]keptMount
}

type keptConfig struct {
	container.Config
	MacAddress network.HardwareAddr // as before Docker 25 kept it
}

type keptEndpoint struct {
	network.EndpointSettings
	IPAMOperational   bool // IPAMConfig is not what was asked for
	DesiredMacAddress network.HardwareAddr
}

type keptMount struct {
	Type                                       mount.Type
	Name, Source, Destination, Driver, Relabel string
	RW                                         bool
	Propagation                                mount.Propagation
}

// containerIDs are those of the folders that have a container.
func (r *Root) containerIDs() ([]string, error) {
	entries, err := readDir(r.at, "containers")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	is := regexp.MustCompile(`^[0-9a-f]{64}$`)
	for _, e := range entries {
		if e.IsDir() && is.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, err
}

func (r *Root) kept(id string) (*keptContainer, error) {
	c := &keptContainer{}
	if err := readJSON(r.at, filepath.Join("containers", id, "config.v2.json"), c); err != nil {
		return nil, err
	}
	if c.ID != id || c.Config == nil || !strings.HasPrefix(c.Name, "/") {
		return nil, fmt.Errorf("%s is not of this container", filepath.Join(r.path, "containers", id, "config.v2.json"))
	}
	return c, nil
}

// youngest is the container that was made last, or nil.
func youngest(all []*keptContainer) (out *keptContainer) {
	for _, c := range all {
		if out == nil || c.Created.After(out.Created) {
			out = c
		}
	}
	return out
}

// readable are the containers that can be read.
func (r *Root) readable() (out []*keptContainer, _ error) {
	ids, err := r.containerIDs()
	for _, id := range ids {
		if c, err := r.kept(id); err == nil {
			out = append(out, c)
		}
	}
	return out, err
}

// runs says whether a container's first process goes on without Docker. The process
// of that number is only its own if its cgroup, or its parent's command line, names it.
func (c *keptContainer) runs() bool {
	if !c.State.Running || c.State.Pid <= 1 {
		return false
	}
	proc := func(pid, name string) []byte {
		body, _ := os.ReadFile(filepath.Join("/proc", pid, name)) // it may end just now
		return body
	}
	pid := strconv.Itoa(c.State.Pid)
	if bytes.Contains(proc(pid, "cgroup"), []byte(c.ID)) {
		return true
	}
	_, after, _ := bytes.Cut(proc(pid, "status"), []byte("\nPPid:\t"))
	parent, _, _ := bytes.Cut(after, []byte("\n"))
	return len(parent) > 0 && bytes.Contains(proc(string(parent), "cmdline"), []byte(c.ID))
}

// Containers lists the containers, the youngest first. One that cannot be read has
// its id for a name; Container says why.
func (r *Root) Containers() ([]container.Summary, error) {
	ids, err := r.containerIDs()
	if err != nil {
		return nil, err
	}
	var out []container.Summary
	at := map[string]time.Time{}
	for _, id := range ids {
		s := container.Summary{ID: id, Names: []string{"/" + id[:12]}}
		if c, err := r.kept(id); err == nil {
			s.Names, s.Image, s.ImageID, s.Created = []string{c.Name}, c.Config.Image, c.Image, c.Created.Unix()
			at[id] = c.Created
		}
		out = append(out, s)
	}
	slices.SortStableFunc(out, func(a, b container.Summary) int { return at[b.ID].Compare(at[a.ID]) })
	return out, nil
}

// Container is what Docker says of a container.
func (r *Root) Container(id string) (container.InspectResponse, error) {
	var none container.InspectResponse
	ids, err := r.containerIDs()
	if err != nil {
		return none, err
	}
	if !slices.Contains(ids, id) {
		return none, errdefs.ErrNotFound.WithMessage("No such container: " + id)
	}
	c, err := r.kept(id)
	if err != nil {
		return none, err
	}
	if c.State.Dead || c.State.RemovalInProgress {
		return none, errdefs.ErrFailedPrecondition.WithMessage("Docker was removing it when it stopped")
	}
	host := &container.HostConfig{}
	if err := readJSON(r.at, filepath.Join("containers", id, "hostconfig.json"), host); err != nil {
		return none, err
	}
	if host.Links, err = r.links(c, host); err != nil {
		return none, err
	}
	out := container.InspectResponse{
		ID: c.ID, Name: c.Name, Created: c.Created.Format(time.RFC3339Nano), Image: c.Image, Driver: c.Driver, Config: &c.Config.Config, HostConfig: host,
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}},
	}
	for _, target := range slices.Sorted(maps.Keys(c.MountPoints)) {
		out.Mounts = append(out.Mounts, r.mountPoint(c.MountPoints[target]))
	}
	for name, e := range c.NetworkSettings.Networks {
		if e == nil {
			e = &keptEndpoint{}
		}
		if e.IPAMOperational {
			e.IPAMConfig = nil
		}
		out.NetworkSettings.Networks[name] = &network.EndpointSettings{
			IPAMConfig: e.IPAMConfig, Links: e.Links, Aliases: e.Aliases, DriverOpts: e.DriverOpts, GwPriority: e.GwPriority,
			NetworkID: e.NetworkID, MacAddress: e.DesiredMacAddress,
		}
		mode := string(host.NetworkMode)
		if host.NetworkMode.IsDefault() {
			mode = network.NetworkBridge
		}
		if len(e.DesiredMacAddress) == 0 && (name == mode || e.NetworkID != "" && e.NetworkID == mode) {
			out.NetworkSettings.Networks[name].MacAddress = c.Config.MacAddress
		}
	}
	return out, nil
}

func (r *Root) mountPoint(m keptMount) container.MountPoint {
	p := container.MountPoint{
		Type: m.Type, Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver, Mode: m.Relabel, RW: m.RW, Propagation: m.Propagation,
	}
	switch {
	case p.Type == "" && m.Name != "": // as before Docker kept it
		p.Type = mount.TypeVolume
	case p.Type == "":
		p.Type = mount.TypeBind
	}
	return p
}

// links are those of the default bridge, as Docker shows them: /db:/web/alias. In
// other networks they are in the container's place there.
func (r *Root) links(c *keptContainer, host *container.HostConfig) ([]string, error) {
	if host.NetworkMode.IsUserDefined() || len(host.Links) == 0 {
		return nil, nil
	}
	all, err := r.Containers()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range host.Links {
		of, as, ok := strings.Cut(l, ":")
		if !ok {
			as = of
		}
		for _, other := range all {
			if strings.HasPrefix(other.ID, of) { // it may be linked to by its id
				of = strings.TrimPrefix(other.Names[0], "/")
			}
		}
		out = append(out, "/"+strings.TrimPrefix(of, "/")+":"+c.Name+"/"+path.Base(as))
	}
	return out, nil
}
