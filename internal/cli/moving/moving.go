// Package moving takes over what a Docker engine has: `system import-docker`.
//
// Docker is only read: by its API or, where it does not run, from its data root, for
// which `hezid docker-root` answers as the API does. What Hezi has already is left as it is, so that an
// import that failed in the middle can be called again.
package moving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/upkeep"
	"hezi/internal/version"
)

// New is `system import-docker`, Hezi's own. The exit code is 1 if something could not be taken.
func New(c upkeep.Client) *cobra.Command {
	var from, dataRoot, containerdRoot string
	var dry, subnets bool
	cmd := &cobra.Command{
		Use: "[OPTIONS]",
		Long: "Take images, volumes, networks and containers' definitions over from a Docker engine that runs, or from the data root of one that does not. Docker is only read. Containers are not started, and what they wrote outside volumes stays in Docker." +
			" What Hezi has already by the same name is left as it is. Volumes are copied by the engine, so that both engines must be on one machine; stop the containers that write to them first.",
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "unix:///var/run/docker.sock", "Address of the Docker engine")
	f.StringVar(&dataRoot, "data-root", "", "Read the data root of a Docker that does not run, such as /var/lib/docker, instead")
	f.StringVar(&containerdRoot, "containerd-root", "", "Where containerd has the images of the Docker that --data-root names (default \"containerd\" beside it, or \"containerd/daemon\" in it); \"none\" if it has none")
	f.BoolVar(&dry, "dry-run", false, "Say what would be taken, and take nothing")
	f.BoolVar(&subnets, "keep-subnets", false, "Give bridge networks the subnets that they have in Docker. Remove Docker's networks before containers use them")
	cmd.RunE = c.Run(func(ctx context.Context, engine *endpoint.Connection, _ []string) (err error) {
		switch {
		case f.Changed("data-root") && dataRoot == "":
			return errors.New("--data-root names no folder")
		case dataRoot != "" && f.Changed("from"):
			return errors.New("--from asks a Docker that runs, and --data-root reads one that does not: name one of them")
		case containerdRoot != "" && dataRoot == "":
			return errors.New("--containerd-root says where the images of a data root are: name that with --data-root")
		}
		if err := engine.RequireHezi(ctx, "system import-docker"); err != nil {
			return err
		}
		there := machine(from)
		if dataRoot != "" {
			there = ""
		}
		if here := machine(engine.Endpoint.Host); here != there {
			return fmt.Errorf("there is Docker on %s and Hezi on %s: hezid copies the volumes, so that both must be on one machine; from another take images with docker save IMAGE... | hezi load, and volumes with hezi volume import", orThis(there), orThis(here))
		}
		m := &mover{to: engine, out: c.Out, dry: dry, subnets: subnets, images: map[string]string{}, moved: map[string]bool{}}
		if dataRoot != "" {
			m.stopped = true
			r, err := readRoot(ctx, dataRoot, containerdRoot)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.close()) }()
			m.from, err = r.connect("Hezi-Client/" + version.Version)
			if err != nil {
				return err
			}
		} else if m.from, err = connect(ctx, from); err != nil {
			return err
		}
		defer m.from.Close()
		for _, step := range []func(context.Context) error{m.takeImages, m.takeVolumes, m.takeNetworks, m.takeContainers} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return errors.Join(m.problems...)
	})
	return cmd
}

// machine is the host that an engine's address names, or "" for this one.
func machine(address string) string {
	if !strings.Contains(address, "://") {
		address = "tcp://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "unix" {
		return ""
	}
	name := u.Hostname()
	if ip, err := netip.ParseAddr(name); name == "localhost" || err == nil && ip.IsLoopback() {
		return ""
	}
	return name
}

func orThis(name string) string {
	if name == "" {
		return "this machine"
	}
	return name
}

// connect reaches the engine to read from, which must not be Hezi's.
func connect(ctx context.Context, host string) (*endpoint.Connection, error) {
	at, err := endpoint.Flags{Host: host}.Resolve(nil)
	if err != nil {
		return nil, err
	}
	docker, err := at.Connect("Hezi-Client/"+version.Version, nil)
	if err != nil {
		return nil, err
	}
	if _, err := docker.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		// Not wrapped: it would be explained as a connection to Hezi that fails.
		return nil, errors.Join(fmt.Errorf("cannot ask Docker at %s: %v: it must run; --from names its address, and --data-root takes what one that does not run has left", host, err), docker.Close())
	}
	if docker.RequireHezi(ctx, "") == nil {
		return nil, errors.Join(fmt.Errorf("the engine at %s is Hezi: name Docker's address with --from", host), docker.Close())
	}
	return docker, nil
}

// mover is one import.
type mover struct {
	from, to *endpoint.Connection
	out      io.Writer
	stopped  bool // from is a data root's reader
	dry      bool
	subnets  bool // bridge networks keep theirs

	images   map[string]string // Docker's ids of images, and what they are called in Hezi
	moved    map[string]bool   // networks that have other subnets than in Docker
	problems []error
}

// took tells what was taken.
func (m *mover) took(format string, args ...any) {
	if m.dry {
		format = "would take " + format
	}
	_, _ = fmt.Fprintf(m.out, format+"\n", args...) // a terminal that is gone is no failure of the import
}

// kept tells what Hezi has already.
func (m *mover) kept(kind, name string) {
	_, _ = fmt.Fprintf(m.out, "%s %s: is there already\n", kind, name)
}

// failed keeps a problem; the import goes on.
func (m *mover) failed(kind, name string, err error) {
	m.problems = append(m.problems, fmt.Errorf("%s %s: not taken: %w", kind, name, err))
}
