package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/security"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// information is what a template of `info` sees: the engine's fields, and the
// client's beside them.
type information struct {
	*system.Info `json:",omitempty"`
	ServerErrors []string    `json:",omitempty"`
	ClientInfo   *clientInfo `json:",omitempty"`
	ClientErrors []string    `json:",omitempty"`
}

type clientInfo struct {
	Debug bool
	clientVersion
	Plugins  []struct{}
	Warnings []string
}

func newInfo(a *App) *cobra.Command {
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all := information{Info: &system.Info{}, ClientInfo: &clientInfo{Debug: a.debug, clientVersion: a.clientVersion(), Plugins: []struct{}{}}}
		tmpl, err := format.Template(source)
		if err != nil {
			return &exitError{code: 64, err: err}
		}
		engine, failed := a.Engine(cmd.Context())
		if failed == nil {
			var res client.SystemInfoResult
			if res, failed = engine.Info(cmd.Context(), client.InfoOptions{}); failed == nil {
				all.Info = &res.Info
			}
		}
		var b bytes.Buffer
		if source != "" {
			err = tmpl.Execute(&b, all)
			b.WriteByte('\n')
		} else {
			a.describe(&b, all.ClientInfo, all.Info, failed)
		}
		if _, writeErr := b.WriteTo(a.Out); err == nil {
			err = writeErr
		}
		if source == "" && failed == nil {
			for _, w := range all.Warnings {
				a.warn(w)
			}
		}
		if endpoint.IsUnreachable(failed) || err == nil {
			return failed
		}
		return errors.Join(failed, err)
	}
	return cmd
}

// describe writes both halves for people.
func (a *App) describe(b *bytes.Buffer, c *clientInfo, info *system.Info, failed error) {
	fmt.Fprintf(b, "Client: %s\n Version:    %s\n Context:    %s\n Debug Mode: %t\n\nServer:\n", c.Platform.Name, c.Version, c.Context, c.Debug)
	if failed != nil {
		return
	}
	p := infoPrinter{b}
	p.objects(info)
	p.plugins(info)
	p.runtimes(info)
	p.host(info)
	p.settings(info, a.debug, a.config.AuthConfigs[hubServer].Username)
	b.WriteByte('\n')
}

// infoPrinter writes lines as Docker does.
type infoPrinter struct{ *bytes.Buffer }

func (p infoPrinter) line(label string, v any) { fmt.Fprintf(p, " %s: %v\n", label, v) }

func (p infoPrinter) some(label, v string) {
	if v != "" {
		p.line(label, v)
	}
}

func (p infoPrinter) pairs(pairs [][2]string) {
	for _, kv := range pairs {
		p.line(" "+kv[0], kv[1])
	}
}

func (p infoPrinter) list(label string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(p, " %s:\n", label)
		for _, l := range lines {
			fmt.Fprintf(p, "  %s\n", l)
		}
	}
}

func (p infoPrinter) objects(i *system.Info) {
	p.line("Containers", i.Containers)
	p.line(" Running", i.ContainersRunning)
	p.line(" Paused", i.ContainersPaused)
	p.line(" Stopped", i.ContainersStopped)
	p.line("Images", i.Images)
	p.some("Server Version", i.ServerVersion)
	p.some("Storage Driver", i.Driver)
	p.pairs(i.DriverStatus)
	p.some("Logging Driver", i.LoggingDriver)
	p.some("Cgroup Driver", i.CgroupDriver)
	p.some("Cgroup Version", i.CgroupVersion)
}

func (p infoPrinter) plugins(i *system.Info) {
	fmt.Fprintln(p, " Plugins:")
	p.line(" Volume", strings.Join(i.Plugins.Volume, " "))
	p.line(" Network", strings.Join(i.Plugins.Network, " "))
	if len(i.Plugins.Authorization) > 0 {
		p.line(" Authorization", strings.Join(i.Plugins.Authorization, " "))
	}
	p.line(" Log", strings.Join(i.Plugins.Log, " "))
	p.list("CDI spec directories", i.CDISpecDirs)
	var devices []string
	for _, d := range i.DiscoveredDevices {
		devices = append(devices, d.Source+": "+d.ID)
	}
	p.list("Discovered Devices", devices)
}

func (p infoPrinter) runtimes(i *system.Info) {
	p.line("Swarm", i.Swarm.LocalNodeState)
	if s := i.Swarm; s.LocalNodeState != swarm.LocalNodeStateInactive && s.LocalNodeState != swarm.LocalNodeStateLocked && s.LocalNodeState != "" {
		p.line(" NodeID", s.NodeID)
		p.line(" Is Manager", s.ControlAvailable)
		p.line(" Node Address", s.NodeAddr)
	}
	if len(i.Runtimes) > 0 {
		p.line("Runtimes", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "))
		p.line("Default Runtime", i.DefaultRuntime)
	}
	p.some("Init Binary", i.InitBinary)
	p.some("containerd version", i.ContainerdCommit.ID)
	p.some("runc version", i.RuncCommit.ID)
	p.some("init version", i.InitCommit.ID)
	if options := security.DecodeOptions(i.SecurityOptions); len(options) > 0 {
		fmt.Fprintln(p, " Security Options:")
		for _, o := range options {
			fmt.Fprintf(p, "  %s\n", o.Name)
			for _, kv := range o.Options {
				if kv.Key == "profile" {
					fmt.Fprintf(p, "   Profile: %s\n", kv.Value)
				}
			}
		}
	}
}

func (p infoPrinter) host(i *system.Info) {
	p.some("Kernel Version", i.KernelVersion)
	p.some("Operating System", i.OperatingSystem)
	p.some("OSType", i.OSType)
	p.some("Architecture", i.Architecture)
	p.line("CPUs", i.NCPU)
	p.line("Total Memory", units.BytesSize(float64(i.MemTotal)))
	p.some("Name", i.Name)
	p.some("ID", i.ID)
	p.line("Docker Root Dir", i.DockerRootDir)
}

func (p infoPrinter) settings(i *system.Info, debug bool, user string) {
	p.line("Debug Mode", i.Debug)
	if i.Debug || debug {
		p.line(" File Descriptors", i.NFd)
		p.line(" Goroutines", i.NGoroutines)
		p.line(" System Time", i.SystemTime)
		p.line(" EventsListeners", i.NEventsListener)
	}
	p.some("HTTP Proxy", i.HTTPProxy)
	p.some("HTTPS Proxy", i.HTTPSProxy)
	p.some("No Proxy", i.NoProxy)
	p.some("Username", user)
	p.list("Labels", i.Labels)
	p.line("Experimental", i.ExperimentalBuild)
	if r := i.RegistryConfig; r != nil {
		var insecure []string
		for _, name := range slices.Sorted(maps.Keys(r.IndexConfigs)) {
			if !r.IndexConfigs[name].Secure {
				insecure = append(insecure, r.IndexConfigs[name].Name)
			}
		}
		for _, cidr := range r.InsecureRegistryCIDRs {
			insecure = append(insecure, cidr.String())
		}
		p.list("Insecure Registries", insecure)
		p.list("Registry Mirrors", r.Mirrors)
	}
	p.line("Live Restore Enabled", i.LiveRestoreEnabled)
	p.some("Product License", i.ProductLicense)
	if len(i.DefaultAddressPools) > 0 {
		fmt.Fprintln(p, " Default Address Pools:")
		for _, pool := range i.DefaultAddressPools {
			fmt.Fprintf(p, "   Base: %s, Size: %d\n", pool.Base, pool.Size)
		}
	}
	if i.FirewallBackend != nil {
		p.line("Firewall Backend", i.FirewallBackend.Driver)
		p.pairs(i.FirewallBackend.Info)
	}
}
