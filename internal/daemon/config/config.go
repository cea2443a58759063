// Package config is hezid's configuration: daemon.json (with comments and
// trailing commas) and dockerd's flags where the feature exists. One table
// (options.go) has every option; a flag overrides the file.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/system"
	"github.com/spf13/pflag"

	"hezi/internal/box/cgroup"
	"hezi/internal/disk"
	"hezi/internal/engine/oci"
	"hezi/internal/image/registry"
	"hezi/internal/logs/options"
)

// Config of an engine. Sizes are bytes, times are seconds.
type Config struct {
	Hosts    []string // unix://PATH, tcp://ADDR:PORT, fd://[NAME or NUMBER]
	DataRoot string
	ExecRoot string
	PIDFile  string // "": EXECROOT/hezi.pid
	Group    string // owner of unix sockets

	Debug     bool
	LogLevel  string // debug, info, warn, error
	LogFormat string // text or json
	Labels    []string

	RegistryMirrors        []string            // of Docker Hub
	MirrorsOf              map[string][]string // of other registries
	InsecureRegistries     []string
	Proxy                  registry.Proxy
	MaxConcurrentDownloads int
	MaxConcurrentUploads   int
	MaxDownloadAttempts    int

	Network
	DNS       []string
	DNSSearch []string
	DNSOpts   []string
	// ResolvConf is the host's file; "": /etc/resolv.conf.
	ResolvConf string

	CDISpecDirs []string // nil: the usual ones

	Runtimes       map[string]system.Runtime // beside the engine's own
	DefaultRuntime string                    // "": the engine's own

	Init            bool
	NoNewPrivileges bool
	SELinux         bool   // containers have labels
	SeccompProfile  string // "": the built-in default; "unconfined"; or a file
	DefaultShmSize  int64
	IPCMode         string // "", private or shareable
	UsernsRemap     string // as dockerd has it; "": none
	Userns          string // "", host, auto or auto:size=N
	UsernsRange     string // START:SIZE; "": subuid(5) says it
	LogDriver       string
	LogOpts         map[string]string
	StorageDriver   string   // "": what was used before, or the best that works
	StorageOpts     []string // KEY=VALUE
	ExecOpts        []string // native.cgroupdriver=cgroupfs or systemd
	CgroupParent    string   // "": a group of the engine's own, or system.slice
	DiskBudget      disk.Limits
	DiskReserve     int64
	VolumeTrash     time.Duration
	LiveRestore     bool
	// The pauses before restarts by a policy, and how many short runs in a row make
	// an event "crashloop" (negative: none); zero values are Docker's.
	RestartFirst, RestartLast, RestartReset time.Duration
	CrashLoop                               int
	ShutdownTimeout                         int // how long requests and, without live restore, containers may take to end

	TLS, TLSVerify             bool
	TLSCACert, TLSCert, TLSKey string

	// File is the configuration file that was read; "" when there was none.
	File string
	// Overridden are the keys of the file that a flag overrides.
	Overridden []string
	// Notes are what was read otherwise than it is written.
	Notes []string
	// Validate asks only whether the configuration is right.
	Validate bool
	// ShowVersion asks only for the version.
	ShowVersion bool
}

// The default places.
const (
	DefaultDataRoot = "/var/lib/hezi"
	DefaultExecRoot = "/run/hezi"
	DefaultFile     = "/etc/hezi/daemon.json"
	DefaultGroup    = "hezi" // may use the socket
	certificates    = "/etc/hezi"
)

// defaults: logs are capped unless the configuration says otherwise: a
// container that writes for ever must not fill the disk.
func defaults() *Config {
	return &Config{
		DataRoot: DefaultDataRoot, ExecRoot: DefaultExecRoot, Group: DefaultGroup,
		LogLevel: "info", LogFormat: "text",
		MaxConcurrentDownloads: registry.DefaultMaxDownloads, MaxConcurrentUploads: registry.DefaultMaxUploads, MaxDownloadAttempts: registry.DefaultMaxAttempts,
		Network:        Network{IPForward: true, IPMasq: true, IPTables: true, IP6Tables: true, ICC: true, UserlandProxy: true, PublishPolicy: "bypass", BridgeNetfilter: "host"},
		DefaultShmSize: 64 << 20,
		LogDriver:      "json-file",
		DiskReserve:    64 << 20,
		VolumeTrash:    24 * time.Hour,
		LiveRestore:    true, ShutdownTimeout: 15,
		RestartFirst: 100 * time.Millisecond, RestartLast: time.Minute, RestartReset: 10 * time.Second, CrashLoop: 5,
		TLSCACert: filepath.Join(certificates, "ca.pem"),
		TLSCert:   filepath.Join(certificates, "cert.pem"),
		TLSKey:    filepath.Join(certificates, "key.pem"),
	}
}

// ErrHelp is returned when --help was asked for; its text is the help.
type ErrHelp struct{ Text string }

func (e *ErrHelp) Error() string { return e.Text }

// Load reads the flags and the file that they name.
func Load(args []string) (*Config, error) {
	c := defaults()
	opts := c.options()
	fs := pflag.NewFlagSet("hezid", pflag.ContinueOnError)
	fs.SortFlags = true
	fs.Usage = func() {}
	file := fs.String("config-file", DefaultFile, "configuration file (JSON; comments and trailing commas are allowed)")
	fs.BoolVar(&c.Validate, "validate", false, "check the configuration and exit")
	fs.BoolVarP(&c.ShowVersion, "version", "v", false, "show the version and exit")
	for i := range opts {
		o := &opts[i]
		f := fs.VarPF(o.value, o.flagName(), o.short, o.usage)
		if _, ok := o.value.(*boolean); ok {
			f.NoOptDefVal = "true"
		}
	}
	unsupportedFlags(fs)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, &ErrHelp{Text: "Usage: hezid [OPTIONS]\n\nThe engine of Hezi.\n\nOptions:\n" + fs.FlagUsages()}
		}
		return nil, fmt.Errorf("%w; see hezid --help", err)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("hezid takes no arguments, only options: %q; see hezid --help", fs.Arg(0))
	}
	if err := c.readFile(*file, fs.Changed("config-file"), opts, func(o *option) bool { return fs.Changed(o.flagName()) }); err != nil {
		return nil, err
	}
	c.normalize()
	return c, c.check()
}

// Reload reads the file again and returns a configuration in which what can
// change without a restart is new; everything else is as it is in c. The
// names of changed keys that need a restart are returned beside it.
func (c *Config) Reload(args []string) (next *Config, needRestart []string, err error) {
	fresh, err := Load(args)
	if err != nil {
		return nil, nil, err
	}
	merged := *c
	next = &merged
	freshOpts, nextOpts := fresh.options(), next.options()
	for i := range nextOpts {
		if freshOpts[i].value.String() == nextOpts[i].value.String() {
			continue
		}
		if !nextOpts[i].reload {
			needRestart = append(needRestart, nextOpts[i].key)
			continue
		}
		nextOpts[i].value.copyFrom(freshOpts[i].value)
	}
	next.Notes = fresh.Notes
	return next, needRestart, nil
}

// normalize fills what follows from other options.
func (c *Config) normalize() {
	if c.PIDFile == "" {
		c.PIDFile = filepath.Join(c.ExecRoot, "hezi.pid")
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"unix://" + filepath.Join(c.ExecRoot, "hezi.sock")}
	}
	if c.TLSVerify {
		c.TLS = true
	}
	for i, h := range c.Hosts {
		c.Hosts[i] = c.fullHost(h)
	}
	slices.Sort(c.Hosts)
	c.Hosts = slices.Compact(c.Hosts)
	if c.Debug {
		c.LogLevel = "debug"
	}
}

// fullHost lets a bare path or address be written, and fills what is left out
// as Docker does: the socket, the port, and localhost where no address is given,
// so that nothing is open to a network by a slip.
func (c *Config) fullHost(h string) string {
	switch {
	case h == "unix://":
		return h + filepath.Join(c.ExecRoot, "hezi.sock")
	case strings.HasPrefix(h, "/"):
		return "unix://" + h
	case strings.Contains(h, "://") && !strings.HasPrefix(h, "tcp://"):
		return h
	}
	addr := strings.TrimSuffix(strings.TrimPrefix(h, "tcp://"), "/")
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), "2375"
		if c.TLS {
			port = "2376"
		}
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return "tcp://" + net.JoinHostPort(host, port)
}

// check refuses what cannot be meant.
func (c *Config) check() error {
	for _, p := range []struct{ key, path string }{{"data-root", c.DataRoot}, {"exec-root", c.ExecRoot}, {"pidfile", c.PIDFile}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s %q: an absolute path is needed", p.key, p.path)
		}
	}
	if filepath.Clean(c.DataRoot) == filepath.Clean(c.ExecRoot) {
		return fmt.Errorf("data-root and exec-root are both %s: the exec root must be a folder of its own, best on a tmpfs", c.DataRoot)
	}
	if _, err := c.Level(); err != nil {
		return err
	}
	if _, err := oci.New(c.Runtimes, c.DefaultRuntime); err != nil {
		return err
	}
	if c.RestartLast < c.RestartFirst {
		return fmt.Errorf("restart-backoff-max %s is less than restart-backoff %s", c.RestartLast, c.RestartFirst)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("log-format %q: text or json is needed", c.LogFormat)
	}
	if n := len(c.ExecRoot); n > maxExecRoot {
		return fmt.Errorf("exec-root %s has %d bytes: at most %d are possible, since a socket's path is short (unix(7)) and there are sockets below it", c.ExecRoot, n, maxExecRoot)
	}
	for _, h := range c.Hosts {
		if err := checkHost(h); err != nil {
			return fmt.Errorf("host %q: %w", h, err)
		}
	}
	if err := c.checkStorage(); err != nil {
		return err
	}
	if s := c.SeccompProfile; s != "" && s != "unconfined" && s != "builtin" {
		if _, err := os.Stat(s); err != nil {
			return fmt.Errorf("seccomp-profile: %w", err)
		}
	}
	if err := c.checkUsers(); err != nil {
		return err
	}
	return errors.Join(c.checkExecOpts(), c.DiskBudget.Check(), c.checkNetwork(), c.checkTLS(), c.checkNumbers(), c.checkLabels(), c.checkLogOpts(), c.Registries().Validate())
}

// SystemdCgroups says whether systemd makes the cgroups of containers.
func (c *Config) SystemdCgroups() bool {
	return slices.Contains(c.ExecOpts, cgroupDriver+"=systemd")
}

const cgroupDriver = "native.cgroupdriver"

func (c *Config) checkExecOpts() error {
	seen := ""
	for _, o := range c.ExecOpts {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case key != cgroupDriver:
			return fmt.Errorf("exec-opts %q: the only one is %s", o, cgroupDriver)
		case value != "systemd" && value != "cgroupfs":
			return fmt.Errorf("%s option %s not supported: write cgroupfs or systemd", cgroupDriver, value)
		case seen != "" && seen != value:
			return fmt.Errorf("exec-opts: %s is both %s and %s", cgroupDriver, seen, value)
		}
		seen = value
	}
	switch {
	case c.CgroupParent == "":
		return nil
	case c.SystemdCgroups():
		if len(c.CgroupParent) <= len(".slice") || !strings.HasSuffix(c.CgroupParent, ".slice") {
			return errors.New(`cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"`) // dockerd's words
		}
	default:
		if err := cgroup.CheckParent(c.CgroupParent); err != nil {
			return fmt.Errorf("cgroup-parent: %w", err)
		}
	}
	return nil
}

// CDIDirs are the folders of CDI specifications; none where CDI is off.
func (c *Config) CDIDirs() []string {
	if c.CDISpecDirs == nil {
		return []string{"/etc/cdi", "/var/run/cdi"}
	}
	dirs := []string{}
	for _, d := range c.CDISpecDirs {
		if d != "" { // how Docker's configuration switches it off
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// Registries is what concerns registries.
func (c *Config) Registries() registry.Config {
	return registry.Config{
		Mirrors: c.RegistryMirrors, MirrorsOf: c.MirrorsOf, Insecure: c.InsecureRegistries, Proxy: c.Proxy,
		MaxDownloads: c.MaxConcurrentDownloads, MaxUploads: c.MaxConcurrentUploads, MaxAttempts: c.MaxDownloadAttempts, File: c.File,
	}
}

// The longest paths that sockets can have: sun_path of unix(7) less its zero
// byte, less what is added to it.
const (
	maxSocket   = 107 - len(".new")                // listeners are made under another name
	maxExecRoot = 107 - len("/keeper/keeper.sock") // of the keeper
)

func checkHost(h string) error {
	scheme, addr, _ := strings.Cut(h, "://")
	switch scheme {
	case "fd":
		return nil
	case "unix":
		if !filepath.IsAbs(addr) {
			return errors.New("an absolute path is needed, as in unix:///run/hezi/hezi.sock")
		}
		if len(addr) > maxSocket {
			return fmt.Errorf("the path has %d bytes: a socket's can have at most %d", len(addr), maxSocket)
		}
		return nil
	case "tcp":
		_, port, err := net.SplitHostPort(addr)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			return errors.New("an address and a port from 1 to 65535 are needed, as in tcp://127.0.0.1:2376")
		}
		return nil
	}
	return errors.New("unix:///path, tcp://address:port or fd:// is needed")
}

func (c *Config) checkTLS() error {
	if !c.TLS {
		return nil
	}
	files := []struct{ key, path string }{{"tlscert", c.TLSCert}, {"tlskey", c.TLSKey}}
	if c.TLSVerify {
		files = append(files, struct{ key, path string }{"tlscacert", c.TLSCACert})
	}
	for _, f := range files {
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("TLS was asked for, but %s cannot be read: %w", f.key, err)
		}
	}
	return nil
}

func (c *Config) checkNumbers() error {
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		return fmt.Errorf("mtu %d: 0 (the default route's) or 68 to 65535 is needed", c.MTU)
	}
	for _, n := range []struct {
		key      string
		got, min int64
	}{
		{"max-concurrent-downloads", int64(c.MaxConcurrentDownloads), 1},
		{"max-concurrent-uploads", int64(c.MaxConcurrentUploads), 1},
		{"max-download-attempts", int64(c.MaxDownloadAttempts), 1},
		{"shutdown-timeout", int64(c.ShutdownTimeout), -1},
		{"default-shm-size", c.DefaultShmSize, 1},
		{"disk-reserve", c.DiskReserve, 0},
	} {
		if n.got < n.min {
			return fmt.Errorf("%s %d: at least %d is needed", n.key, n.got, n.min)
		}
	}
	return nil
}

// checkLogOpts refuses what the log driver would not heed.
func (c *Config) checkLogOpts() error {
	if c.LogDriver == options.None && len(c.LogOpts) > 0 {
		return fmt.Errorf("log-opts: the log driver none has no options: remove %q", slices.Sorted(maps.Keys(c.LogOpts))[0])
	}
	if err := options.Check(c.LogDriver, c.LogOpts); err != nil {
		return fmt.Errorf("log-driver %s, log-opts: %w", c.LogDriver, err)
	}
	return nil
}

func (c *Config) checkLabels() error {
	seen := map[string]string{}
	for _, l := range c.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return fmt.Errorf("label %q: KEY=VALUE is needed", l)
		}
		if old, dup := seen[key]; dup && old != value {
			return fmt.Errorf("label %q has two values: %q and %q", key, old, value)
		}
		seen[key] = value
	}
	return nil
}

// Level of hezid's own log.
func (c *Config) Level() (slog.Level, error) {
	switch strings.ToLower(c.LogLevel) {
	case "debug", "trace":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log-level %q: debug, info, warn or error is needed", c.LogLevel)
}
