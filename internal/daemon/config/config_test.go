package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	logoptions "hezi/internal/logs/options"
)

var update = flag.Bool("update", false, "write the goldens")

// Each testdata/NAME.json is read; what Load says of it is in NAME.txt.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			got := "accepted\n"
			if _, err := Load([]string{"--config-file", file}); err != nil {
				got = err.Error() + "\n"
			}
			golden := strings.TrimSuffix(file, ".json") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

func load(t *testing.T, args ...string) *Config {
	t.Helper()
	c, err := Load(args)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsOverrideTheFile(t *testing.T) {
	path := file(t, `{"hosts": ["unix:///a.sock"], "debug": false, "mtu": 1400, "dns": ["1.1.1.1"]}`)
	c := load(t, "--config-file", path, "-H", "unix:///b.sock", "-H", "unix:///c.sock", "-D")
	if want := []string{"unix:///b.sock", "unix:///c.sock"}; !reflect.DeepEqual(c.Hosts, want) {
		t.Errorf("hosts %v", c.Hosts)
	}
	if !c.Debug || c.LogLevel != "debug" || c.MTU != 1400 || len(c.DNS) != 1 {
		t.Errorf("%+v", c)
	}
	if want := []string{"hosts", "debug"}; !reflect.DeepEqual(c.Overridden, want) {
		t.Errorf("overridden %v", c.Overridden)
	}
}

func TestDefaults(t *testing.T) {
	c := load(t, "--config-file", file(t, ""))
	if c.DataRoot != "/var/lib/hezi" || c.ExecRoot != "/run/hezi" || c.PIDFile != "/run/hezi/hezi.pid" || !c.LiveRestore {
		t.Errorf("%+v", c)
	}
	if f, err := logoptions.Read(c.LogDriver, c.LogOpts); err != nil || f.MaxSize != 20<<20 || f.MaxFiles != 5 {
		t.Errorf("logs are not capped: %+v, %v", f, err)
	}
	if c.Hosts[0] != "unix:///run/hezi/hezi.sock" {
		t.Errorf("hosts %v", c.Hosts)
	}
	c = load(t, "--config-file", file(t, ""), "--log-opt", "max-size=-1", "--exec-root", "/x")
	if c.LogOpts["max-size"] != "-1" || c.PIDFile != "/x/hezi.pid" {
		t.Errorf("%+v", c)
	}
}

func TestHosts(t *testing.T) {
	c := load(t, "--config-file", file(t, ""), "-H", "fd://", "-H", "/a.sock", "-H", "tcp://127.0.0.1:1/", "-H", "127.0.0.1:2", "-H", "/a.sock",
		"-H", "unix://", "-H", "tcp://", "-H", "tcp://:5", "-H", "tcp://[::1]", "-H", "tcp://example.org")
	if want := []string{"fd://", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:2375", "tcp://127.0.0.1:5", "tcp://[::1]:2375", "tcp://example.org:2375",
		"unix:///a.sock", "unix:///run/hezi/hezi.sock"}; !reflect.DeepEqual(c.Hosts, want) {
		t.Errorf("hosts %q", c.Hosts)
	}
}

func TestBadFlags(t *testing.T) {
	none := file(t, "{}")
	for _, tc := range []struct{ args, says string }{
		{"--add-runtime=x", "NAME=PATH is needed"},
		{"--add-runtime=hezi=/x", "runtime name 'hezi' is reserved"},
		{"--default-runtime=kata", "specified default runtime 'kata' does not exist"},
		{"--userns=private", "invalid userns mode"},
		{"--userns-auto-range=0:1", "write START:SIZE"},
		{"--default-ipc-mode=host", "private or shareable is needed"},
		{"--bip6=fd00::/64", "an IPv6 address with a prefix length is needed"},
		{"--bridge-netfilter=on", "is needed"},
		{"--default-gateway=fd00::1", "an address of that family"},
		{"--default-address-pool=base=10.0.0.0/8", "its size 0 is not from 8 to 30"},
		{"--default-network-opt=bridge=mtu", "DRIVER=OPTION=VALUE is needed"},
		{"--default-network-opt=bridge=com.docker.network.driver.mtu=big", "default-network-opts bridge"},
		{"--default-network-opt=vxlan=a=b", "bridge, macvlan and ipvlan"},
		{"--host-gateway-ip=here", "an IP address is needed"},
		{"--mtu=big", "a whole number is needed"},
		{"--storage-driver=zfs", "overlay2, fuse-overlayfs, btrfs, erofs and vfs are possible"},
		{"--storage-opt=dm.basesize=10G", "unknown option dm.basesize"},
		{"--storage-opt=overlay2.color=red", "unknown option overlay2.color of overlay2"},
		{"--storage-opt=overlay2.size=3", "write a size of a megabyte or more"},
		{"--storage-opt=overlay2.override_kernel_check=maybe", "true or false"},
		{"--storage-opt=overlay2.size", "KEY=VALUE is needed"},
		{"--data-root=data", "an absolute path is needed"},
		{"-H=ftp://x", "unix:///path, tcp://address:port or fd:// is needed"},
		{"--label=x", "KEY=VALUE is needed"},
		{"run", "hezid takes no arguments"},
		{"-H=unix://a.sock", "an absolute path is needed"},
		{"-H=unix:///" + strings.Repeat("a", 103), "a socket's can have at most 103"},
		{"--exec-root=/" + strings.Repeat("a", 88), "at most 88 are possible"},
		{"-H=tcp://127.0.0.1:0", "a port from 1 to 65535"},
		{"-H=tcp://127.0.0.1:http", "a port from 1 to 65535"},
		{"--mtu=10", "68 to 65535"},
		{"--bip=10.0.0.0/16", "as in 10.0.0.1/16"},
		{"--bip=10.0.255.255/16", "broadcast"},
		{"--bip=127.0.0.1/24", "cannot have addresses of that kind"},
		{"--bip=10.0.0.1/31", "from 8 to 29"},
		{"--fixed-cidr=10.0.0.0/31", "an IPv4 network is needed"},
		{"--ip=::", "an IPv4 address is needed"},
		{"--dns-search=a b", "one word"},
		{"--log-opt=max-size=much", "invalid size"},
		{"--log-opt=max-file=0", "max-file cannot be less than 1"},
		{"--log-opt=tagg=x", "unknown log opt 'tagg' for json-file log driver"},
		{"--log-driver=splunk", "no log driver named 'splunk' is registered"},
		{"--registry-mirror=ftp://mirror", "unsupported scheme"},
		{"--registry-mirror=ghcr.io=ftp://mirror", "unsupported scheme"},
		{"--registry-mirror==https://mirror", "HOST=MIRROR is needed"},
		{"--insecure-registry=ftp://reg", "not valid"},
		{"--http-proxy=ftp://proxy", "cannot be used"},
		{"--max-concurrent-uploads=0", "at least 1"},
		{"--seccomp-profile=/nonexistent", "no such file"},
		{"--userland-proxy=maybe", "true or false"},
		{"--userland-proxy-path=/bin/true", "one process of its own"},
		{"--exec-opt=native.cgroupdriver=none", "native.cgroupdriver option none not supported"},
		{"--exec-opt=isolation=process", "the only one is native.cgroupdriver"},
		{"--cgroup-parent=a/../b", "invalid cgroup parent"},
		{"--config-file=/nonexistent/daemon.json", "cannot be read"},
	} {
		if _, err := Load([]string{"--config-file", none, tc.args}); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.args, err)
		}
	}
	for _, args := range [][]string{{"--userland-proxy=false"}, {"--iptables=true"}, {"--iptables"}, {"--exec-opt", "native.cgroupdriver=cgroupfs"}, {"--default-cgroupns-mode=private"}} {
		if _, err := Load(append(args, "--config-file", none)); err != nil {
			t.Errorf("%v is so anyway: %v", args, err)
		}
	}
	if _, err := Load([]string{"--config-file", none, "--bip=10.0.0.1/24", "--fixed-cidr=10.0.1.0/25"}); err == nil || !strings.Contains(err.Error(), "not a part of") {
		t.Errorf("fixed-cidr outside of bip: %v", err)
	}
	if c, err := Load([]string{"--config-file", none, "--exec-opt", "native.cgroupdriver=systemd"}); err != nil || !c.SystemdCgroups() {
		t.Errorf("the systemd driver: %v", err)
	}
	for parent, want := range map[string]string{"/mine": "should be a valid slice", ".slice": "should be a valid slice", "mine.slice": ""} {
		_, err := Load([]string{"--config-file", none, "--exec-opt", "native.cgroupdriver=systemd", "--cgroup-parent", parent})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("the systemd driver with the parent %s: %v", parent, err)
		}
	}
	_, err := Load([]string{"--help"})
	if help, ok := errors.AsType[*ErrHelp](err); !ok || !strings.Contains(help.Text, "--data-root") || strings.Contains(help.Text, "userland-proxy-path") {
		t.Errorf("help: %v", err)
	}
}

func TestRegistries(t *testing.T) {
	path := file(t, `{
		"registry-mirrors": {"docker.io": ["https://a", "b"], "ghcr.io": "c/ghcr", "[::1]:5000": []},
		"insecure-registry": "http://reg:5000",
		"insecure-registries": ["10.0.0.0/8"],
		"proxies": {"http-proxy": "http://u:secret@p:1", "https-proxy": "http://p:2", "no-proxy": "lan"},
		"max-concurrent-uploads": 2,
	}`)
	c := load(t, "--config-file", path)
	r := c.Registries()
	if !reflect.DeepEqual(r.Mirrors, []string{"https://a", "b"}) || !reflect.DeepEqual(r.MirrorsOf["ghcr.io"], []string{"c/ghcr"}) || r.MaxUploads != 2 || r.File != path ||
		!reflect.DeepEqual(r.Insecure, []string{"reg:5000", "10.0.0.0/8"}) || r.Proxy.HTTP != "http://u:secret@p:1" || r.Proxy.HTTPS != "http://p:2" || r.Proxy.No != "lan" {
		t.Errorf("%+v", r)
	}
	notes := strings.Join(c.Notes, "\n")
	if !strings.Contains(notes, `line 3: "insecure-registry" is read as "insecure-registries"`) || !strings.Contains(notes, `should not contain "http://"`) {
		t.Errorf("notes %s", notes)
	}
	c = load(t, "--config-file", path, "--registry-mirror", "https://x", "--registry-mirror", "quay.io=y", "--http-proxy", "http://z")
	if r := c.Registries(); !reflect.DeepEqual(r.Mirrors, []string{"https://x"}) || !reflect.DeepEqual(r.MirrorsOf, map[string][]string{"quay.io": {"y"}}) || r.Proxy.HTTP != "http://z" || r.Proxy.HTTPS != "http://p:2" {
		t.Errorf("%+v", r)
	}
	if want := []string{"registry-mirrors", "proxies.http-proxy"}; !reflect.DeepEqual(c.Overridden, want) {
		t.Errorf("overridden %v", c.Overridden)
	}
	next, restart, err := c.Reload([]string{"--config-file", file(t, `{"http-proxy": "http://n"}`)})
	if err != nil || len(restart) > 0 {
		t.Fatal(restart, err)
	}
	if r := next.Registries(); len(r.Mirrors)+len(r.MirrorsOf)+len(r.Insecure) > 0 || r.Proxy.HTTP != "http://n" || r.Proxy.HTTPS != "" || r.MaxUploads != 5 {
		t.Errorf("%+v", r)
	}
	if len(next.Notes) != 1 || !strings.Contains(next.Notes[0], `"http-proxy" is read as "proxies.http-proxy"`) {
		t.Errorf("notes %q", next.Notes)
	}
}

func TestReload(t *testing.T) {
	path := file(t, `{"debug": false, "mtu": 1400, "labels": ["a=b"]}`)
	args := []string{"--config-file", path}
	c := load(t, args...)
	if err := os.WriteFile(path, []byte(`{"debug": true, "mtu": 1500, "labels": ["c=d"], "registry-mirrors": ["https://m"]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	next, restart, err := c.Reload(args)
	if err != nil {
		t.Fatal(err)
	}
	if !next.Debug || next.LogLevel != "debug" || next.MTU != 1400 || next.Labels[0] != "c=d" || next.RegistryMirrors[0] != "https://m" {
		t.Errorf("%+v", next)
	}
	if !reflect.DeepEqual(restart, []string{"mtu"}) || c.Debug {
		t.Errorf("needs a restart: %v; the old one is %+v", restart, c)
	}
}

// Every key of Docker's is known: supported, or refused with a remedy.
func TestEveryKeyOfDockerIsKnown(t *testing.T) {
	text, err := os.ReadFile("testdata/docker-keys")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, o := range new(Config).options() {
		known[o.key], known[o.alias] = true, true
		if group, _, ok := strings.Cut(o.key, "."); ok {
			known[group] = true
		}
	}
	keys := strings.Fields(string(text))
	if len(keys) < 95 {
		t.Fatalf("only %d keys", len(keys))
	}
	for _, key := range keys {
		if known[key] == (unsupported[key] != "") {
			t.Errorf("%s: supported %v, refused with %q", key, known[key], unsupported[key])
		}
	}
}
