package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// option is one setting: its key in daemon.json and its flag.
type option struct {
	key    string
	flag   string // "": as the key
	short  string
	usage  string
	value  value
	reload bool // SIGHUP applies it
	// alias is another key that people write for this one: it is accepted
	// with a note.
	alias string
}

func (o *option) flagName() string {
	if o.flag != "" {
		return o.flag
	}
	return o.key
}

// options is the table of everything that can be set; names are dockerd's.
func (c *Config) options() []option {
	return []option{
		{key: "hosts", flag: "host", short: "H", usage: "where to listen: unix:///path, tcp://address:port or fd:// (may be given several times)", value: &list{&c.Hosts}},
		{key: "data-root", usage: "folder of images, volumes and containers", value: &text{&c.DataRoot}},
		{key: "exec-root", usage: "folder of run state, best on a tmpfs", value: &text{&c.ExecRoot}},
		{key: "pidfile", short: "p", usage: "file of hezid's process id (default EXECROOT/hezi.pid)", value: &text{&c.PIDFile}},
		{key: "group", short: "G", usage: "group that may use the unix socket", value: &text{&c.Group}},
		{key: "debug", short: "D", usage: "debug mode: debug log and profiles", value: &boolean{&c.Debug}, reload: true},
		{key: "log-level", short: "l", usage: "debug, info, warn or error", value: &text{&c.LogLevel}, reload: true},
		{key: "log-format", usage: "hezid's own log: text or json", value: &text{&c.LogFormat}},
		{key: "labels", flag: "label", usage: "KEY=VALUE label of the engine", value: &list{&c.Labels}, reload: true},
		{key: "registry-mirrors", flag: "registry-mirror", usage: "mirror of Docker Hub, or HOST=MIRROR for another registry's, asked first", value: &mirrors{&c.RegistryMirrors, &c.MirrorsOf}, reload: true, alias: "registry-mirror"},
		{key: "insecure-registries", flag: "insecure-registry", usage: "registry (host[:port] or network) that may speak HTTP or have an unknown certificate", value: &insecure{list{&c.InsecureRegistries}, &c.Notes}, reload: true, alias: "insecure-registry"},
		{key: "proxies.http-proxy", flag: "http-proxy", usage: "proxy for registries spoken to over HTTP (default HTTP_PROXY)", value: &text{&c.Proxy.HTTP}, reload: true, alias: "http-proxy"},
		{key: "proxies.https-proxy", flag: "https-proxy", usage: "proxy for registries spoken to over HTTPS (default HTTPS_PROXY)", value: &text{&c.Proxy.HTTPS}, reload: true, alias: "https-proxy"},
		{key: "proxies.no-proxy", flag: "no-proxy", usage: "hosts, domains and networks that are asked without a proxy (default NO_PROXY)", value: &text{&c.Proxy.No}, reload: true, alias: "no-proxy"},
		{key: "max-concurrent-downloads", usage: "layers downloaded at once, over all pulls", value: &number{&c.MaxConcurrentDownloads}, reload: true},
		{key: "max-concurrent-uploads", usage: "layers uploaded at once, over all pushes", value: &number{&c.MaxConcurrentUploads}, reload: true},
		{key: "max-download-attempts", usage: "tries of each download", value: &number{&c.MaxDownloadAttempts}, reload: true},
		{key: "bip", usage: "address and prefix length of the default bridge, as in 10.88.0.1/16", value: &text{&c.BIP}},
		{key: "bip6", usage: "the same of IPv6, as in fd00:88::1/64", value: &text{&c.BIP6}},
		{key: "bridge", short: "b", usage: "bridge of the host's to attach containers to; none: no default bridge (default: one that hezid makes)", value: &text{&c.Bridge}},
		{key: "fixed-cidr", usage: "part of the bridge's network that containers get", value: &text{&c.FixedCIDR}},
		{key: "fixed-cidr-v6", usage: "the same of IPv6", value: &text{&c.FixedCIDR6}},
		{key: "default-gateway", usage: "default route of containers on the default bridge (default: the bridge)", value: &text{&c.Gateway}},
		{key: "default-gateway-v6", usage: "the same of IPv6", value: &text{&c.Gateway6}},
		{key: "ipv6", usage: "the default bridge has IPv6 as well", value: &boolean{&c.IPv6}},
		{key: "icc", usage: "containers on the default bridge reach each other", value: &boolean{&c.ICC}},
		{key: "iptables", usage: "keep firewall rules of IPv4 (nftables); without them no port can be published over it", value: &boolean{&c.IPTables}},
		{key: "ip6tables", usage: "the same for IPv6", value: &boolean{&c.IP6Tables}},
		{key: "default-address-pools", flag: "default-address-pool", usage: "base=NETWORK,size=BITS that networks without --subnet get theirs of", value: &addressPools{&c.Pools}},
		{key: "default-network-opts", flag: "default-network-opt", usage: "DRIVER=OPTION=VALUE of networks that do not say it", value: &driverOptions{&c.NetworkOptions}},
		{key: "host-gateway-ips", flag: "host-gateway-ip", usage: "what host-gateway means in --add-host (default: the default bridge's address)", value: &oneOrMore{list{&c.HostGateways}}, alias: "host-gateway-ip"},
		{key: "ip", usage: "default address of published ports", value: &text{&c.IP}},
		{key: "allow-direct-routing", usage: "let other machines reach published ports at containers' own addresses", value: &boolean{&c.DirectRouting}},
		{key: "userland-proxy", usage: "published ports answer at ::1, by one process for all", value: &boolean{&c.UserlandProxy}},
		{key: "bridge-netfilter", usage: "whether packets between containers of one network pass the host's IP firewall: host (as net.bridge.bridge-nf-call-* are) or off", value: &text{&c.BridgeNetfilter}},
		{key: "publish-policy", usage: "whether the host's input rules (ufw, firewalld) decide over published ports: bypass or firewall", value: &text{&c.PublishPolicy}},
		{key: "ip-forward", usage: "switch net.ipv4.ip_forward on", value: &boolean{&c.IPForward}},
		{key: "ip-masq", usage: "masquerade what containers send to the outside", value: &boolean{&c.IPMasq}},
		{key: "mtu", usage: "MTU of the default bridge (0: the default route's)", value: &number{&c.MTU}},
		{key: "dns", usage: "DNS server of containers", value: &list{&c.DNS}},
		{key: "dns-search", usage: "DNS search domain of containers", value: &list{&c.DNSSearch}},
		{key: "dns-opts", flag: "dns-opt", usage: "resolv.conf option of containers", value: &list{&c.DNSOpts}},
		{key: "resolv-conf", usage: "the host's resolv.conf, with its name servers (default /etc/resolv.conf)", value: &text{&c.ResolvConf}},
		{key: "init", usage: "run an init in every container that does not say otherwise", value: &boolean{&c.Init}},
		{key: "no-new-privileges", usage: "set no-new-privileges in every container that does not say otherwise", value: &boolean{&c.NoNewPrivileges}},
		{key: "selinux-enabled", usage: "give containers SELinux labels", value: &boolean{&c.SELinux}},
		{key: "seccomp-profile", usage: "seccomp profile of containers: a file, or unconfined (default: built in)", value: &text{&c.SeccompProfile}},
		{key: "cdi-spec-dirs", flag: "cdi-spec-dir", usage: "folder of CDI specifications of devices (default /etc/cdi and /var/run/cdi)", value: &list{&c.CDISpecDirs}},
		{key: "runtimes", flag: "add-runtime", usage: "NAME=PATH of another OCI runtime", value: &declared{&c.Runtimes}, reload: true},
		{key: "default-runtime", usage: "OCI runtime of containers that do not say it (default hezi: the engine's own)", value: &text{&c.DefaultRuntime}, reload: true},
		{key: "default-shm-size", usage: "size of /dev/shm", value: &size{&c.DefaultShmSize}, reload: true},
		{key: "default-ipc-mode", usage: "ipc namespace of containers that do not say it: private or shareable", value: &text{&c.IPCMode}},
		{key: "userns-remap", usage: "map containers' users to the subordinate ids of user[:group], uid[:gid] or default (dockremap)", value: &text{&c.UsernsRemap}},
		{key: "userns", usage: "user namespace of containers that do not say it: auto gives each ids of its own", value: &text{&c.Userns}},
		{key: "userns-auto-range", usage: "START:SIZE of the host's ids that auto gives away (default: those of hezi in /etc/subuid and /etc/subgid)", value: &text{&c.UsernsRange}},
		{key: "log-driver", usage: "containers' log driver: json-file, local, none, journald, syslog, fluentd or gelf", value: &text{&c.LogDriver}},
		{key: "log-opts", flag: "log-opt", usage: "KEY=VALUE option of the log driver (default max-size=20m, max-file=5)", value: &table{&c.LogOpts}},
		{key: "exec-opts", flag: "exec-opt", usage: "native.cgroupdriver=cgroupfs (the default) or native.cgroupdriver=systemd: who makes the cgroups of containers", value: &list{&c.ExecOpts}},
		{key: "cgroup-parent", usage: "cgroup of containers that do not say it", value: &text{&c.CgroupParent}},
		{key: "storage-driver", short: "s", usage: "overlay2, fuse-overlayfs, btrfs, erofs or vfs (default: what was used before, or the best that works in the data root)", value: &text{&c.StorageDriver}},
		{key: "storage-opts", flag: "storage-opt", usage: "KEY=VALUE option of the storage driver: overlay2.size=SIZE bounds the disk space of each container", value: &list{&c.StorageOpts}},
		{key: "disk-budget", usage: "what the data root may take without volumes, as in 50GB or 20% (of the disk): beyond it unused images are removed, those unused for longest first", value: &text{&c.DiskBudget.High}, reload: true},
		{key: "disk-budget-low", usage: "where that removal stops: a size, or a share of the budget (default 90%)", value: &text{&c.DiskBudget.Low}, reload: true},
		{key: "disk-reserve", usage: "space held back so that clean-up works on a full disk; 0 for none", value: &size{&c.DiskReserve}},
		{key: "volume-trash", usage: "how long a removed volume can come back (hezi volume undo); 0s: not at all", value: &pause{&c.VolumeTrash}, reload: true},
		{key: "live-restore", usage: "keep containers running while hezid is stopped", value: &boolean{&c.LiveRestore}, reload: true},
		{key: "restart-backoff", usage: "pause before the first restart by a policy, doubled by each run that was short", value: &duration{&c.RestartFirst}},
		{key: "restart-backoff-max", usage: "the longest of these pauses", value: &duration{&c.RestartLast}},
		{key: "restart-backoff-reset", usage: "a run of this length is not short: the pauses begin anew", value: &duration{&c.RestartReset}},
		{key: "crashloop-restarts", usage: "short runs in a row that make an event \"crashloop\" (negative: none)", value: &number{&c.CrashLoop}},
		{key: "shutdown-timeout", usage: "seconds that requests may take to end when hezid stops", value: &number{&c.ShutdownTimeout}, reload: true},
		{key: "tls", usage: "TLS on tcp:// hosts", value: &boolean{&c.TLS}},
		{key: "tlsverify", usage: "TLS on tcp:// hosts, clients need a certificate of tlscacert", value: &boolean{&c.TLSVerify}},
		{key: "tlscacert", usage: "authority of the clients' certificates", value: &text{&c.TLSCACert}},
		{key: "tlscert", usage: "server certificate", value: &text{&c.TLSCert}},
		{key: "tlskey", usage: "server key", value: &text{&c.TLSKey}},
	}
}

// unsupported are dockerd's other keys, each with what to do without it.
var unsupported = map[string]string{
	"authorization-plugins": "limit who may open the socket by its group",
	"bridge-accept-fwmark":  restricted, "builder": "there is no builder yet",
	"containerd": "Hezi needs no containerd", "containerd-namespace": "Hezi needs no containerd",
	"containerd-plugin-namespace": "Hezi needs no containerd", "cpu-rt-period": restricted, "cpu-rt-runtime": restricted,
	"cri-containerd":        restricted,
	"default-cgroupns-mode": "containers have a cgroup namespace of their own",
	"default-init":          "use init",
	"default-stop-timeout":  "use --stop-timeout of run", "default-ulimits": restricted,
	"experimental": "there are no experimental features to switch",
	"features":     "there are no features to switch", "firewall-backend": "Hezi uses nftables always",
	"init-path": "Hezi has an init of its own", "ip-forward-no-drop": "Hezi does not change the policy of FORWARD",
	"metrics-addr": restricted, "min-api-version": "Hezi serves API 1.24 and newer always",
	"network-control-plane-mtu": "there is no swarm", "network-diagnostic-port": "there is no swarm", "node-generic-resources": "there is no swarm",
	"nri-opts": restricted, "raw-logs": "hezid's log has no colours", "rootless": restricted,
	"swarm-default-advertise-addr": "there is no swarm", "swarm-raft-election-tick": "there is no swarm", "swarm-raft-heartbeat-tick": "there is no swarm",
	"userland-proxy-path": "Hezi has one process of its own for the ports at ::1",
}

// already are the values of unsupported options that say what is so anyway, in
// JSON: a daemon.json of Docker's that has them needs no change.
var already = map[string][]string{
	"experimental": {"false"}, "rootless": {"false"}, "cri-containerd": {"false"}, "ip-forward-no-drop": {"true"},
	"default-cgroupns-mode": {`"private"`}, "firewall-backend": {`"nftables"`},
	"features":              {"{}", `{"containerd-snapshotter":true}`},
	"authorization-plugins": {"[]"}, "default-ulimits": {"{}"},
}

// restricted is the remedy where there is no other way yet.
const restricted = "remove it; it comes with a later version"

// refused is the error of an unsupported option.
func refused(key string) error {
	return fmt.Errorf("%q is an option of Docker that this version of Hezi does not support: %s", key, unsupported[key])
}

// refusing is the flag of an unsupported option.
type refusing struct{ key string }

func (v refusing) String() string { return "" }
func (v refusing) Type() string   { return "" }
func (v refusing) Set(s string) error {
	for _, json := range already[v.key] {
		if s == strings.Trim(json, `[]"`) {
			return nil
		}
	}
	return refused(v.key)
}

// unsupportedFlags lets dockerd's other flags be refused with a reason.
func unsupportedFlags(fs *pflag.FlagSet) {
	for key := range unsupported {
		name := key
		switch key { // keys in the plural whose flags are in the singular
		case "authorization-plugins", "default-ulimits", "node-generic-resources":
			name = key[:len(key)-1]
		case "features":
			name = "feature"
		}
		if fs.Lookup(name) != nil {
			continue
		}
		f := fs.VarPF(refusing{key}, name, "", "")
		f.Hidden = true
		if slices.Contains(already[key], "true") || slices.Contains(already[key], "false") {
			f.NoOptDefVal = "true"
		}
	}
}
