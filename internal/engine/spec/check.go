package spec

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func unavailable(flag string) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("%s is not there yet in this version of hezi: leave it out", flag))
}

// Check refuses what is out of range, and every option that is set and not
// implemented: nothing is ignored.
func Check(c *container.Config, h *container.HostConfig) error {
	if flag := unimplemented(c, h); flag != "" {
		return unavailable(flag)
	}
	if err := CheckLimits(&h.Resources, false); err != nil {
		return err
	}
	switch {
	case h.ShmSize < 0:
		return invalid("SHM size can not be less than 0")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case h.AutoRemove && !h.RestartPolicy.IsNone():
		return invalid("can't create 'AutoRemove' container with restart policy: leave out --rm or --restart")
	case h.ConsoleSize[0] > math.MaxUint16 || h.ConsoleSize[1] > math.MaxUint16:
		return invalid("invalid console size %v: a height and a width from 0 to 65535 are needed", h.ConsoleSize)
	}
	for _, v := range c.Env {
		if variable(v) == "" {
			return invalid("invalid environment variable: %q: write NAME=value", v)
		}
	}
	if err := checkPorts(c, h); err != nil {
		return err
	}
	if err := checkSysctls(h); err != nil {
		return err
	}
	if _, ok := h.Annotations[""]; ok {
		return invalid("invalid Annotations: the empty string is not permitted as an annotation key")
	}
	if _, err := StorageSize(h); err != nil {
		return err
	}
	if err := checkDevices(h); err != nil {
		return err
	}
	if err := checkNamespaces(c, h); err != nil {
		return err
	}
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return invalid("%v", err)
	}
	if _, err := ParseSecurity(h.SecurityOpt); err != nil {
		return err
	}
	if err := checkHidden(h); err != nil {
		return err
	}
	mode := string(h.NetworkMode)
	if h.NetworkMode.IsContainer() && (len(h.DNS)+len(h.DNSSearch)+len(h.DNSOptions)+len(h.ExtraHosts)+len(h.PortBindings)+len(c.ExposedPorts) > 0 || h.PublishAllPorts) {
		return invalid("conflicting options: -p, -P, --expose, --dns, --dns-search, --dns-option and --add-host cannot be used with --network %s: give them to the container whose network is joined", mode)
	}
	return nil
}

// checkPorts refuses protocols that do not exist; which of the others can be
// published is the network room's to say.
func checkPorts(c *container.Config, h *container.HostConfig) error {
	for _, ports := range []iter.Seq[network.Port]{maps.Keys(c.ExposedPorts), maps.Keys(h.PortBindings)} {
		for p := range ports {
			switch p.Proto() {
			case network.TCP, network.UDP, network.SCTP:
			default:
				return invalid("invalid proto: %s: write %d/tcp, %d/udp or %d/sctp", p.Proto(), p.Num(), p.Num(), p.Num())
			}
		}
	}
	return nil
}

// unimplemented is the table of what is not there yet: the first flag that is set, or "".
func unimplemented(c *container.Config, h *container.HostConfig) string {
	r := &h.Resources
	for _, f := range []struct {
		flag string
		set  bool
	}{
		{"--isolation", h.Isolation != "" && h.Isolation != "default"},
		{"HostConfig.Cgroup", h.Cgroup != ""},
		{"--cpu-count (of Windows)", r.CPUCount != 0},
		{"Config.NetworkDisabled", c.NetworkDisabled},
	} {
		if f.set {
			return strings.TrimSpace(f.flag)
		}
	}
	return ""
}

// ipcSysctls are those of an ipc namespace (ipc_namespaces(7)).
var ipcSysctls = []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}

// checkSysctls allows only what belongs to the container's own namespaces:
// everything else is the whole machine's.
func checkSysctls(h *container.HostConfig) error {
	for key := range h.Sysctls {
		name := strings.ReplaceAll(key, "/", ".")
		switch {
		case strings.Contains(name, "..") || strings.Trim(name, ".") != name || strings.ContainsAny(name, "\x00\n "):
			return invalid("invalid sysctl %q: write a name such as net.core.somaxconn", key)
		case strings.HasPrefix(name, "net."):
			if !h.NetworkMode.IsPrivate() {
				return invalid("sysctl %q is not allowed with --network %s: the setting is not the container's own", key, h.NetworkMode)
			}
		case strings.HasPrefix(name, "fs.mqueue."), slices.Contains(ipcSysctls, name):
			if err := hostsIPC(name, h); err != nil {
				return err
			}
		case name == "kernel.domainname" && !h.UTSMode.IsHost():
		case name == "kernel.hostname":
			return invalid("sysctl %q is not allowed as it conflicts with the OCI %q field: use --hostname", key, "hostname")
		default:
			return invalid("sysctl %q is not in a separate kernel namespace: it would change the whole machine; set it on the host", key)
		}
	}
	return nil
}
