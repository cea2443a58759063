package request

import (
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// Container is the request for a container.
type Container struct {
	Config     *container.Config
	Host       *container.HostConfig
	Networking *network.NetworkingConfig
}

// Remove says whether the container goes away with its end (--rm).
func (o *Options) Remove() bool { return o.general.remove }

// Attached says whether -a was given.
func (o *Options) Attached() bool { return o.general.attach.Len() > 0 }

// Env is what -e gives, for what decides by it before Container is called.
func (o *Options) Env() []string { return o.general.env.GetSlice() }

// Container checks the flags and makes the request. More environment, as of
// the client's proxy settings, comes before what the flags set.
func (o *Options) Container(proxyEnv []string) (*Container, error) {
	config, err := o.config(proxyEnv)
	if err != nil {
		return nil, err
	}
	host, err := o.host()
	if err != nil {
		return nil, err
	}
	volumes, binds, err := o.storage.volumes()
	if err != nil {
		return nil, err
	}
	config.Volumes, host.Binds = volumes, binds
	if err := o.network.ports(config, host); err != nil {
		return nil, err
	}
	endpoints, err := o.network.endpoints()
	if err != nil {
		return nil, err
	}
	return &Container{Config: config, Host: host, Networking: &network.NetworkingConfig{EndpointsConfig: endpoints}}, nil
}

func (o *Options) config(proxyEnv []string) (*container.Config, error) {
	g := &o.general
	env, err := opts.ReadKVEnvStrings(g.envFile.GetSlice(), g.env.GetSlice())
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	labels, err := opts.ReadKVStrings(g.labelFile.GetSlice(), g.labels.GetSlice())
	if err != nil {
		return nil, fmt.Errorf("--label-file: %w", err)
	}
	check, err := o.health.config()
	if err != nil {
		return nil, err
	}
	labelMap := opts.ConvertKVStringsToMap(labels)
	if o.health.action != "" {
		labelMap[healthAction] = o.health.action
	}
	if len(o.network.egress) > 0 {
		if labelMap[EgressLabel], err = Egress(o.network.egress); err != nil {
			return nil, err
		}
	}
	if len(o.limits.hugePages) > 0 {
		labelMap[hugePages] = HugePages(o.limits.hugePages)
	}
	none := g.attach.Len() == 0
	c := &container.Config{
		Hostname:     g.hostname,
		Domainname:   g.domainname,
		User:         g.user,
		Tty:          g.tty,
		OpenStdin:    g.stdin,
		AttachStdin:  g.stdin || g.attach.Get("stdin"),
		AttachStdout: none || g.attach.Get("stdout"),
		AttachStderr: none || g.attach.Get("stderr"),
		Env:          append(slices.Clone(proxyEnv), env...),
		Image:        o.Image,
		WorkingDir:   g.workdir,
		Labels:       labelMap,
		StopSignal:   g.stopSignal,
		Healthcheck:  check,
	}
	if len(o.Args) > 0 {
		c.Cmd = o.Args
	}
	if g.entrypoint != "" {
		c.Entrypoint = []string{g.entrypoint}
	} else if o.flags.Changed("entrypoint") {
		c.Entrypoint = []string{""} // --entrypoint= resets the image's
	}
	if o.flags.Changed("stop-timeout") {
		c.StopTimeout = &g.stopTimeout
	}
	c.StdinOnce = c.OpenStdin && c.AttachStdin // the program's stdin ends with the attached client's
	return c, nil
}

func (o *Options) host() (*container.HostConfig, error) {
	g, s, n, st, ns := &o.general, &o.security, &o.network, &o.storage, &o.spaces
	if err := ns.check(); err != nil {
		return nil, err
	}
	restart, err := opts.ParseRestartPolicy(g.restart)
	if err != nil {
		return nil, err
	}
	if g.remove && !restart.IsNone() {
		return nil, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	logOpts, err := st.logOptions()
	if err != nil {
		return nil, err
	}
	storageOpts, err := st.storageOptions()
	if err != nil {
		return nil, err
	}
	securityOpts, masked, readonly, err := s.options()
	if err != nil {
		return nil, err
	}
	resources, err := o.resources()
	if err != nil {
		return nil, err
	}
	h := &container.HostConfig{
		ContainerIDFile: g.cidfile,
		OomScoreAdj:     o.limits.oomScoreAdj,
		AutoRemove:      g.remove,
		Privileged:      s.privileged,
		Links:           n.links.GetSlice(),
		PublishAllPorts: n.publishAll,
		DNS:             addresses(n.dns.GetAllOrEmpty()),
		DNSSearch:       n.dnsSearch.GetAllOrEmpty(),
		DNSOptions:      n.dnsOptions.GetAllOrEmpty(),
		ExtraHosts:      n.extraHosts.GetSlice(),
		VolumesFrom:     st.volumesFrom.GetSlice(),
		IpcMode:         container.IpcMode(ns.ipc),
		NetworkMode:     container.NetworkMode(n.mode.NetworkMode()),
		PidMode:         container.PidMode(ns.pid),
		UTSMode:         container.UTSMode(ns.uts),
		UsernsMode:      container.UsernsMode(ns.userns),
		CgroupnsMode:    container.CgroupnsMode(ns.cgroupns),
		CapAdd:          s.capAdd.GetSlice(),
		CapDrop:         s.capDrop.GetSlice(),
		GroupAdd:        g.groupAdd.GetSlice(),
		RestartPolicy:   restart,
		SecurityOpt:     securityOpts,
		StorageOpt:      storageOpts,
		ReadonlyRootfs:  g.readOnly,
		LogConfig:       container.LogConfig{Type: st.logDriver, Config: logOpts},
		VolumeDriver:    st.volumeDriver,
		Isolation:       container.Isolation(ns.isolation),
		ShmSize:         o.limits.shmSize.Value(),
		Resources:       resources,
		Tmpfs:           st.tmpfsMounts(),
		Sysctls:         g.sysctls.GetAll(),
		Runtime:         ns.runtime,
		Mounts:          st.mounts.Value(),
		MaskedPaths:     masked,
		ReadonlyPaths:   readonly,
		Annotations:     g.annotations.GetAll(),
		Umask:           s.umask.Value(),
	}
	if o.flags.Changed("init") {
		h.Init = &g.init
	}
	return h, nil
}

func (n *namespaces) check() error {
	switch {
	case !container.PidMode(n.pid).Valid():
		return errors.New("--pid: invalid PID mode")
	case !container.UTSMode(n.uts).Valid():
		return errors.New("--uts: invalid UTS mode")
	case !container.UsernsMode(n.userns).Valid() && n.userns != "auto" && !strings.HasPrefix(n.userns, "auto:"):
		return errors.New("--userns: invalid USER mode")
	case !container.CgroupnsMode(n.cgroupns).Valid():
		return errors.New("--cgroupns: invalid CGROUP mode")
	}
	return nil
}

// healthAction is the label by which an engine of Hezi knows --health-action.
const healthAction = "hezi.health.action"

// hugePages is the label by which an engine of Hezi knows --hugetlb-limit.
const hugePages = "hezi.hugetlb"

// HugePages is what several --hugetlb-limit say together.
func HugePages(list []string) string { return strings.Join(list, ",") }

// Own says which flag only Hezi's engine knows; "": none is set. Docker's would
// ignore what it means.
func (o *Options) Own() string {
	switch h := &o.health; {
	case h.http != "":
		return "--health-http"
	case h.tcp != "":
		return "--health-tcp"
	case h.action != "":
		return "--health-action"
	case len(o.limits.hugePages) > 0:
		return "--hugetlb-limit"
	case len(o.network.egress) > 0:
		return "--egress"
	}
	return ""
}

func (h *health) config() (*container.HealthConfig, error) {
	own := 0
	for _, s := range []string{h.cmd, h.http, h.tcp} {
		if s != "" {
			own++
		}
	}
	set := own > 0 || h.interval != 0 || h.timeout != 0 || h.start != 0 || h.retries != 0 || h.startIterval != 0
	switch {
	case own > 1:
		return nil, errors.New("conflicting options: --health-cmd, --health-http and --health-tcp: a container has one health check")
	case h.none && (set || h.action != ""):
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case h.none:
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	case !set:
		return nil, nil
	case h.interval < 0:
		return nil, errors.New("--health-interval cannot be negative")
	case h.timeout < 0:
		return nil, errors.New("--health-timeout cannot be negative")
	case h.retries < 0:
		return nil, errors.New("--health-retries cannot be negative")
	case h.start < 0:
		return nil, errors.New("--health-start-period cannot be negative")
	case h.startIterval < 0:
		return nil, errors.New("--health-start-interval cannot be negative")
	}
	c := &container.HealthConfig{Interval: h.interval, Timeout: h.timeout, StartPeriod: h.start, StartInterval: h.startIterval, Retries: h.retries}
	switch {
	case h.cmd != "":
		c.Test = []string{"CMD-SHELL", h.cmd}
	case h.http != "":
		c.Test = []string{"HTTP", h.http}
	case h.tcp != "":
		c.Test = []string{"TCP", h.tcp}
	}
	return c, nil
}

func (o *Options) resources() (container.Resources, error) {
	l, g := &o.limits, &o.general
	if l.swappiness != -1 && (l.swappiness < 0 || l.swappiness > 100) {
		return container.Resources{}, fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", l.swappiness)
	}
	devices, requests, err := g.deviceMappings()
	if err != nil {
		return container.Resources{}, err
	}
	return container.Resources{
		CgroupParent:         o.spaces.cgroupParent,
		Memory:               l.memory.Value(),
		MemoryReservation:    l.memoryReservation.Value(),
		MemorySwap:           l.memorySwap.Value(),
		MemorySwappiness:     &l.swappiness,
		OomKillDisable:       &l.oomKillDisable,
		NanoCPUs:             l.cpus.Value(),
		CPUCount:             l.cpuCount,
		CPUPercent:           l.cpuPercent,
		CPUShares:            l.cpuShares,
		CPUPeriod:            l.cpuPeriod,
		CpusetCpus:           l.cpusetCpus,
		CpusetMems:           l.cpusetMems,
		CPUQuota:             l.cpuQuota,
		CPURealtimePeriod:    l.cpuRTPeriod,
		CPURealtimeRuntime:   l.cpuRTRuntime,
		PidsLimit:            &l.pids,
		BlkioWeight:          l.blkioWeight,
		BlkioWeightDevice:    l.blkioWeightDevice.GetList(),
		BlkioDeviceReadBps:   l.readBps.GetList(),
		BlkioDeviceWriteBps:  l.writeBps.GetList(),
		BlkioDeviceReadIOps:  l.readIOps.GetList(),
		BlkioDeviceWriteIOps: l.writeIOps.GetList(),
		IOMaximumIOps:        l.ioMaxIOps,
		IOMaximumBandwidth:   uint64(l.ioMaxBandwidth.Value()),
		Ulimits:              g.ulimits.GetList(),
		DeviceCgroupRules:    g.deviceRules.GetSlice(),
		Devices:              devices,
		DeviceRequests:       requests,
	}, nil
}

// deviceMappings splits --device into paths of the host and CDI names, and
// adds --gpus.
func (g *general) deviceMappings() ([]container.DeviceMapping, []container.DeviceRequest, error) {
	mappings := []container.DeviceMapping{}
	requests := g.gpus.Value()
	var cdi []string
	for _, d := range g.devices.GetSlice() {
		if isCDI(d) {
			cdi = append(cdi, d)
			continue
		}
		m, err := device(d)
		if err != nil {
			return nil, nil, err
		}
		mappings = append(mappings, m)
	}
	if len(cdi) > 0 {
		requests = append(requests, container.DeviceRequest{Driver: "cdi", DeviceIDs: cdi})
	}
	return mappings, requests, nil
}

// isCDI recognises vendor.com/class=name.
func isCDI(d string) bool {
	kind, name, ok := strings.Cut(d, "=")
	vendor, class, ok2 := strings.Cut(kind, "/")
	return ok && ok2 && name != "" && vendor != "" && class != "" && !strings.Contains(class, "/")
}

// device parses HOST[:CONTAINER][:rwm].
func device(spec string) (container.DeviceMapping, error) {
	m := container.DeviceMapping{CgroupPermissions: "rwm"}
	part := strings.Split(spec, ":")
	if len(part) > 3 || part[0] == "" {
		return m, fmt.Errorf("bad format for path: %s", spec)
	}
	m.PathOnHost = part[0]
	m.PathInContainer = part[0]
	switch {
	case len(part) == 3:
		if !deviceMode(part[2]) {
			return m, fmt.Errorf("bad mode specified: %s", part[2])
		}
		m.PathInContainer, m.CgroupPermissions = part[1], part[2]
	case len(part) == 2 && deviceMode(part[1]):
		m.CgroupPermissions = part[1]
	case len(part) == 2:
		m.PathInContainer = path.Clean(part[1])
	}
	if !path.IsAbs(m.PathInContainer) {
		return m, fmt.Errorf("%s is not an absolute path", m.PathInContainer)
	}
	return m, nil
}

// deviceMode accepts any of r, w and m, each once.
func deviceMode(mode string) bool {
	if mode == "" || strings.Trim(mode, "rwm") != "" {
		return false
	}
	return strings.Count(mode, "r") <= 1 && strings.Count(mode, "w") <= 1 && strings.Count(mode, "m") <= 1
}

func hardwareAddress(s string) (network.HardwareAddr, error) {
	mac, err := net.ParseMAC(strings.TrimSpace(s))
	if err != nil {
		return nil, fmt.Errorf("%s is not a valid mac address", s)
	}
	return network.HardwareAddr(mac), nil
}
