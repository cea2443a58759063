// Package request turns the flags of run and create into the request for a
// container. It is pure but for the files that flags name (--env-file,
// --label-file, a seccomp profile), and says what is wrong before the engine
// is asked.
//
// The grammar of each value is Docker's (github.com/docker/cli/opts), and so
// is the meaning. Flags of features that the engine does not have are sent as
// they are: the engine refuses them by name.
package request

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/spf13/pflag"
)

// Options are the flags' values, as given.
type Options struct {
	Image string
	Args  []string

	flags *pflag.FlagSet

	general  general
	security security
	network  networking
	storage  storage
	health   health
	limits   limits
	spaces   namespaces
}

type general struct {
	attach, env, envFile, groupAdd, labels, labelFile opts.ListOpts
	devices, deviceRules                              opts.ListOpts
	gpus                                              opts.GpuOpts
	sysctls, annotations                              *opts.MapOpts
	ulimits                                           *opts.UlimitOpt

	entrypoint, hostname, domainname, user, workdir string
	restart, stopSignal, cidfile                    string
	stopTimeout                                     int
	stdin, tty, readOnly, remove, init              bool
}

type security struct {
	capAdd, capDrop, securityOpt opts.ListOpts
	privileged                   bool
	umask                        opts.UmaskOpt
}

type networking struct {
	extraHosts, dns, dnsOptions, dnsSearch, expose opts.ListOpts
	links, linkLocal, publish, aliases             opts.ListOpts
	mode                                           opts.NetworkOpt
	ip, ip6                                        net.IP
	mac                                            string
	publishAll                                     bool
	egress                                         []string
}

type storage struct {
	logDriver, volumeDriver                          string
	logOpts, storageOpts, tmpfs, volumesFrom, volume opts.ListOpts
	mounts                                           mountOpt
}

type health struct {
	cmd, http, tcp, action                 string
	interval, timeout, start, startIterval time.Duration
	retries                                int
	none                                   bool
}

type limits struct {
	blkioWeight                                uint16
	blkioWeightDevice                          opts.WeightdeviceOpt
	readBps, writeBps, readIOps, writeIOps     opts.ThrottledeviceOpt
	cpusetCpus, cpusetMems                     string
	cpuCount, cpuPercent, cpuPeriod, cpuQuota  int64
	cpuRTPeriod, cpuRTRuntime, cpuShares       int64
	cpus                                       opts.NanoCPUs
	ioMaxBandwidth                             opts.MemBytes
	ioMaxIOps                                  uint64
	memory, memoryReservation, shmSize, kernel opts.MemBytes
	memorySwap                                 opts.MemSwapBytes
	swappiness, pids                           int64
	oomKillDisable                             bool
	oomScoreAdj                                int
	hugePages                                  []string
}

type namespaces struct {
	cgroupParent, cgroupns, ipc, isolation, pid, runtime, userns, uts string
}

// AddFlags registers the flags that describe a container.
func AddFlags(flags *pflag.FlagSet) *Options {
	o := &Options{flags: flags}
	o.general.add(flags)
	o.security.add(flags)
	o.network.add(flags)
	o.storage.add(flags)
	o.health.add(flags)
	o.limits.add(flags)
	o.spaces.add(flags)
	return o
}

func list(valid opts.ValidatorFctType) opts.ListOpts { return opts.NewListOpts(valid) }

func (g *general) add(f *pflag.FlagSet) {
	g.attach = list(validStream)
	g.env, g.envFile = list(opts.ValidateEnv), list(nil)
	g.groupAdd, g.labelFile = list(nil), list(nil)
	g.labels = list(opts.ValidateLabel)
	g.devices, g.deviceRules = list(nil), list(validDeviceRule)
	g.sysctls = opts.NewMapOpts(nil, opts.ValidateSysctl)
	g.annotations = opts.NewMapOpts(nil, nil)
	g.ulimits = opts.NewUlimitOpt(nil)

	f.VarP(&g.attach, "attach", "a", "Attach to STDIN, STDOUT or STDERR")
	f.Var(&g.deviceRules, "device-cgroup-rule", "Add a rule to the cgroup allowed devices list")
	f.Var(&g.devices, "device", "Add a host device to the container")
	f.Var(&g.gpus, "gpus", "GPU devices to add to the container ('all' to pass all GPUs)")
	f.VarP(&g.env, "env", "e", "Set environment variables")
	f.Var(&g.envFile, "env-file", "Read in a file of environment variables")
	f.StringVar(&g.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	f.Var(&g.groupAdd, "group-add", "Add additional groups to join")
	f.StringVarP(&g.hostname, "hostname", "h", "", "Container host name")
	f.StringVar(&g.domainname, "domainname", "", "Container NIS domain name")
	f.BoolVarP(&g.stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.VarP(&g.labels, "label", "l", "Set meta data on a container")
	f.Var(&g.labelFile, "label-file", "Read in a line delimited file of labels")
	f.BoolVar(&g.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	f.StringVar(&g.restart, "restart", "no", "Restart policy to apply when a container exits")
	f.StringVar(&g.stopSignal, "stop-signal", "", "Signal to stop the container")
	f.IntVar(&g.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	f.Var(g.sysctls, "sysctl", "Sysctl options")
	f.BoolVarP(&g.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.Var(g.ulimits, "ulimit", "Ulimit options")
	f.StringVarP(&g.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVarP(&g.workdir, "workdir", "w", "", "Working directory inside the container")
	f.BoolVar(&g.remove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	f.StringVar(&g.cidfile, "cidfile", "", "Write the container ID to the file")
	f.BoolVar(&g.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	f.Var(g.annotations, "annotation", "Add an annotation to the container (passed through to the OCI runtime)")
}

func (s *security) add(f *pflag.FlagSet) {
	s.capAdd, s.capDrop, s.securityOpt = list(nil), list(nil), list(nil)
	f.Var(&s.capAdd, "cap-add", "Add Linux capabilities")
	f.Var(&s.capDrop, "cap-drop", "Drop Linux capabilities")
	f.BoolVar(&s.privileged, "privileged", false, "Give extended privileges to this container")
	f.Var(&s.securityOpt, "security-opt", "Security Options")
	f.Var(&s.umask, "umask", "Set umask for the container")
}

func (n *networking) add(f *pflag.FlagSet) {
	n.extraHosts, n.dns = list(opts.ValidateExtraHost), list(opts.ValidateIPAddress)
	n.dnsOptions, n.dnsSearch = list(nil), list(opts.ValidateDNSSearch)
	n.expose, n.links, n.linkLocal = list(nil), list(opts.ValidateLink), list(opts.ValidateIPAddress)
	n.publish, n.aliases = list(nil), list(nil)

	f.Var(&n.extraHosts, "add-host", "Add a custom host-to-IP mapping (host:ip)")
	f.Var(&n.dns, "dns", "Set custom DNS servers")
	f.Var(&n.dnsOptions, "dns-opt", "Set DNS options")
	f.Var(&n.dnsOptions, "dns-option", "Set DNS options")
	f.Var(&n.dnsSearch, "dns-search", "Set custom DNS search domains")
	f.Var(&n.expose, "expose", "Expose a port or a range of ports")
	f.IPVar(&n.ip, "ip", nil, "IPv4 address (e.g., 172.30.100.104)")
	f.IPVar(&n.ip6, "ip6", nil, "IPv6 address (e.g., 2001:db8::33)")
	f.Var(&n.links, "link", "Add link to another container")
	f.Var(&n.linkLocal, "link-local-ip", "Container IPv4/IPv6 link-local addresses")
	f.StringVar(&n.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	f.VarP(&n.publish, "publish", "p", "Publish a container's port(s) to the host")
	f.StringArrayVar(&n.egress, "egress", nil, `What the container may send to ("none", "allow=10.0.0.0/8,example.org:443")`)
	f.BoolVarP(&n.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	f.Var(&n.mode, "net", "Connect a container to a network")
	f.Var(&n.mode, "network", "Connect a container to a network")
	f.Var(&n.aliases, "net-alias", "Add network-scoped alias for the container")
	f.Var(&n.aliases, "network-alias", "Add network-scoped alias for the container")
	for _, old := range []string{"dns-opt", "net", "net-alias"} {
		f.Lookup(old).Hidden = true
	}
}

func (s *storage) add(f *pflag.FlagSet) {
	s.logOpts, s.storageOpts, s.tmpfs = list(nil), list(nil), list(nil)
	s.volumesFrom, s.volume = list(nil), list(nil)
	f.StringVar(&s.logDriver, "log-driver", "", "Logging driver for the container")
	f.StringVar(&s.volumeDriver, "volume-driver", "", "Optional volume driver for the container")
	f.Var(&s.logOpts, "log-opt", "Log driver options")
	f.Var(&s.storageOpts, "storage-opt", "Storage driver options for the container")
	f.Var(&s.tmpfs, "tmpfs", "Mount a tmpfs directory")
	f.Var(&s.volumesFrom, "volumes-from", "Mount volumes from the specified container(s)")
	f.VarP(&s.volume, "volume", "v", "Bind mount a volume")
	f.Var(&s.mounts, "mount", "Attach a filesystem mount to the container")
}

func (h *health) add(f *pflag.FlagSet) {
	f.StringVar(&h.cmd, "health-cmd", "", "Command to run to check health")
	f.StringVar(&h.http, "health-http", "", "Check health by HTTP, with no program in the container: a URL on localhost, or PORT/PATH")
	f.StringVar(&h.tcp, "health-tcp", "", "Check health by a TCP connection: PORT or HOST:PORT")
	f.StringVar(&h.action, "health-action", "", `What to do when the container becomes unhealthy ("none", "restart", "stop", "kill")`)
	f.DurationVar(&h.interval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	f.IntVar(&h.retries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	f.DurationVar(&h.timeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	f.DurationVar(&h.start, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	f.DurationVar(&h.startIterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h) (default 0s)")
	f.BoolVar(&h.none, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
}

func (l *limits) add(f *pflag.FlagSet) {
	l.blkioWeightDevice = opts.NewWeightdeviceOpt(opts.ValidateWeightDevice)
	l.readBps, l.writeBps = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice), opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
	l.readIOps, l.writeIOps = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice), opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)

	f.Uint16Var(&l.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	f.Var(&l.blkioWeightDevice, "blkio-weight-device", "Block IO weight (relative device weight)")
	f.StringVar(&l.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&l.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.Int64Var(&l.cpuCount, "cpu-count", 0, "CPU count (Windows only)")
	f.Int64Var(&l.cpuPercent, "cpu-percent", 0, "CPU percent (Windows only)")
	f.Int64Var(&l.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	f.Int64Var(&l.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	f.Int64Var(&l.cpuRTPeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	f.Int64Var(&l.cpuRTRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	f.Int64VarP(&l.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Var(&l.cpus, "cpus", "Number of CPUs")
	f.Var(&l.readBps, "device-read-bps", "Limit read rate (bytes per second) from a device")
	f.Var(&l.readIOps, "device-read-iops", "Limit read rate (IO per second) from a device")
	f.Var(&l.writeBps, "device-write-bps", "Limit write rate (bytes per second) to a device")
	f.Var(&l.writeIOps, "device-write-iops", "Limit write rate (IO per second) to a device")
	f.Var(&l.ioMaxBandwidth, "io-maxbandwidth", "Maximum IO bandwidth limit for the system drive (Windows only)")
	f.Uint64Var(&l.ioMaxIOps, "io-maxiops", 0, "Maximum IOps limit for the system drive (Windows only)")
	f.VarP(&l.memory, "memory", "m", "Memory limit")
	f.Var(&l.memoryReservation, "memory-reservation", "Memory soft limit")
	f.Var(&l.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	f.Int64Var(&l.swappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	f.BoolVar(&l.oomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	f.IntVar(&l.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	f.StringArrayVar(&l.hugePages, "hugetlb-limit", nil, `How much of the host's huge pages may be used, for a size of them ("2MB=64m")`)
	f.Int64Var(&l.pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	f.Var(&l.shmSize, "shm-size", "Size of /dev/shm")
	f.Var(&l.kernel, "kernel-memory", "Kernel memory limit (deprecated)")
	_ = f.MarkDeprecated("kernel-memory", "and no longer supported by the kernel") // the flag exists
}

func (n *namespaces) add(f *pflag.FlagSet) {
	f.StringVar(&n.userns, "userns", "", "User namespace to use")
	f.StringVar(&n.cgroupns, "cgroupns", "", `Cgroup namespace to use (host|private)
'host':    Run the container in the Docker host's cgroup namespace
'private': Run the container in its own private cgroup namespace
'':        Use the cgroup namespace as configured by the
           default-cgroupns-mode option on the daemon (default)`)
	f.StringVar(&n.cgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	f.StringVar(&n.ipc, "ipc", "", "IPC mode to use")
	f.StringVar(&n.isolation, "isolation", "", "Container isolation technology")
	f.StringVar(&n.pid, "pid", "", "PID namespace to use")
	f.StringVar(&n.uts, "uts", "", "UTS namespace to use")
	f.StringVar(&n.runtime, "runtime", "", "Runtime to use for this container")
}

func validStream(val string) (string, error) {
	s := strings.ToLower(val)
	if slices.Contains([]string{"stdin", "stdout", "stderr"}, s) {
		return s, nil
	}
	return val, errors.New("valid streams are STDIN, STDOUT and STDERR")
}

// validDeviceRule checks `type major:minor mode`.
func validDeviceRule(val string) (string, error) {
	bad := fmt.Errorf("invalid device cgroup format '%s'", val)
	part := strings.Split(val, " ")
	if len(part) != 3 || len(part[0]) != 1 || !strings.Contains("acb", part[0]) || part[2] == "" || len(part[2]) > 3 || strings.Trim(part[2], "rwm") != "" {
		return val, bad
	}
	major, minor, ok := strings.Cut(part[1], ":")
	for _, n := range []string{major, minor} {
		if !ok || n == "" || n != "*" && strings.Trim(n, "0123456789") != "" {
			return val, bad
		}
	}
	return val, nil
}
