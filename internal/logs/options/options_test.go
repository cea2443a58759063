package options

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func table(list ...string) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

// The words are Docker's.
func TestCheck(t *testing.T) {
	for _, c := range []struct{ driver, opts, want string }{
		{"json-file", "max-size=10m max-file=3 compress=true labels=a labels-regex=b env=c env-regex=d tag=e mode=blocking", ""},
		{"json-file", "mode=non-blocking max-buffer-size=4m", ""},
		{"json-file", "max-size=-1", ""},
		{"json-file", "foo=1", "unknown log opt 'foo' for json-file log driver"},
		{"local", "foo=1", "unknown log opt 'foo' for log driver local"},
		{"syslog", "foo=1", "unknown log opt 'foo' for syslog log driver"},
		{"journald", "max-size=1m", "unknown log opt 'max-size' for journald log driver"},
		{"fluentd", "foo=1", "unknown log opt 'foo' for fluentd log driver"},
		{"gelf", "gelf-address=udp://a:1 foo=1", `unknown log opt "foo" for gelf log driver`},
		{"none", "foo=1", ""},
		{"splunk", "", "logger: no log driver named 'splunk' is registered: use "},
		{"nosuch", "", "logger: no log driver named 'nosuch' is registered: use one of fluentd, gelf,"},
		{"json-file", "max-size=abc", "failed to initialize logging driver: invalid size: 'abc'"},
		{"json-file", "max-size=0", "failed to initialize logging driver: max-size must be a positive number"},
		{"local", "max-size=abc", "failed to initialize logging driver: invalid value for max-size: abc: invalid size: 'abc'"},
		{"json-file", "max-file=0", "failed to initialize logging driver: max-file cannot be less than 1"},
		{"json-file", "max-file=1 compress=true", "failed to initialize logging driver: compress cannot be true when max-file is less than 2 or max-size is not set"},
		{"local", "max-file=1 compress=true", "failed to initialize logging driver: compression cannot be enabled when max file count is 1"},
		{"json-file", "mode=fast", "logger: logging mode not supported: fast"},
		{"json-file", "max-buffer-size=1m", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file", "mode=non-blocking max-buffer-size=x", "error parsing option max-buffer-size: invalid size: 'x'"},
		{"syslog", "cache-disabled=x", "invalid value for option cache-disabled: x"},
		{"syslog", "syslog-address=ftp://a", "unsupported scheme: 'ftp'"},
		{"syslog", "syslog-address=unix:///nosuch", "stat /nosuch: no such file or directory"},
		{"syslog", "syslog-facility=x", `invalid syslog facility "x"`},
		{"syslog", "syslog-format=x", `Invalid syslog format "x"`},
		{"gelf", "", "gelf-address is a required parameter"},
		{"gelf", "gelf-address=http://a:1", "gelf: endpoint needs to be TCP or UDP"},
		{"gelf", "gelf-address=udp://a", "gelf: please provide gelf-address as proto://host:port"},
		{"gelf", "gelf-address=tcp://a:1 gelf-compression-type=gzip", "compression is only supported on UDP"},
		{"gelf", "gelf-address=udp://a:1 gelf-compression-type=lz", `unknown value "lz" for log opt "gelf-compression-type" for gelf log driver`},
		{"gelf", "gelf-address=udp://a:1 gelf-compression-level=10", `unknown value "10" for log opt "gelf-compression-level" for gelf log driver`},
		{"gelf", "gelf-address=udp://a:1 gelf-tcp-max-reconnect=1", `"gelf-tcp-max-reconnect" is only valid for TCP`},
		{"gelf", "gelf-address=tcp://a:1 gelf-tcp-reconnect-delay=-1", `"gelf-tcp-reconnect-delay" must be a positive integer`},
		{"fluentd", "fluentd-address=http://a", "invalid fluentd-address (http://a): unsupported scheme: 'http'"},
		{"fluentd", "fluentd-address=tcp://a/b", "invalid fluentd-address (tcp://a/b): should not contain a path element"},
		{"fluentd", "fluentd-address=unix:///", "invalid fluentd-address (unix:///): path is empty"},
		{"fluentd", "fluentd-async-reconnect-interval=1h", "must be between 100ms and 10s"},
		{"fluentd", "fluentd-write-timeout=-1s", "value must be a duration that is non-negative"},
		{"fluentd", "fluentd-max-retries=5000000000", "value out of range"},
	} {
		err := Check(c.driver, table(strings.Fields(c.opts)...))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.driver, c.opts, err, c.want)
		}
	}
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		driver, opts string
		want         File
	}{
		{"json-file", "", File{MaxSize: 20 << 20, MaxFiles: 5, Compress: true}},
		{"local", "max-size=10m max-file=2 compress=false", File{MaxSize: 10_000_000, MaxFiles: 2}},
		{"json-file", "max-size=-1", File{MaxFiles: 5}},
		{"json-file", "max-file=1", File{MaxSize: 20 << 20, MaxFiles: 1}},
		{"json-file", "mode=non-blocking", File{MaxSize: 20 << 20, MaxFiles: 5, Compress: true, Buffer: 1 << 20}},
		{"syslog", "cache-max-size=1k cache-disabled=true max-buffer-size=2m mode=non-blocking", File{MaxSize: 1000, MaxFiles: 5, Compress: true, Buffer: 2 << 20, Unread: true}},
	} {
		if f, err := Read(c.driver, table(strings.Fields(c.opts)...)); err != nil || f != c.want {
			t.Errorf("%s %s: %+v, %v, want %+v", c.driver, c.opts, f, err, c.want)
		}
	}
}

func TestMerge(t *testing.T) {
	defaults := table("max-size=1m", "cache-disabled=true")
	for _, c := range []struct {
		driver, opts, wantDriver, want string
	}{
		{"", "", "json-file", "max-size=1m cache-disabled=true"},
		{"json-file", "max-size=2m", "json-file", "max-size=2m cache-disabled=true"},
		{"syslog", "tag=x", "syslog", "tag=x cache-disabled=true"},
	} {
		driver, opts := Merge(c.driver, table(strings.Fields(c.opts)...), "json-file", defaults)
		if driver != c.wantDriver || !maps.Equal(opts, table(strings.Fields(c.want)...)) {
			t.Errorf("%q %s: %s %v", c.driver, c.opts, driver, opts)
		}
	}
}

func TestTagAndAttributes(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	i := Info{ContainerID: "0123456789abcdef", ContainerName: "/web", ContainerImageID: "sha256:fedcba98765432100", ContainerImageName: "nginx:1",
		ContainerEntrypoint: "sh", ContainerArgs: []string{"-c", "x"}, ContainerEnv: []string{"A=1", "AB=2", "C"}, ContainerLabels: map[string]string{"app": "shop", "tier": "db"}}
	for text, want := range map[string]string{
		"": "", "plain": "plain", "{{.ID}}": "0123456789ab", "{{.Name}}/{{.FullID}}": "web/0123456789abcdef", "{{.ImageID}} {{.ImageName}}": "fedcba987654 nginx:1",
		"{{.Command}}": "sh -c x", "{{.Hostname}}": host, "{{upper .Name}}": "WEB", "{{json .Name}}": `"web"`, `{{join .ContainerArgs ","}}`: "-c,x",
		`{{truncate .Name 2}}{{pad .Name 1 1}}`: "we web ", "{{index .ContainerLabels \"app\"}}": "shop", "{{title .Name}}": "Web",
	} {
		i.Config = table("tag=" + text)
		if got, err := i.Tag(""); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	i.Config = table("labels=app,none", "labels-regex=^ti", "env=A", "env-regex=B$", "tag={{.Name}}")
	attrs, err := i.FileAttributes()
	if err != nil || !maps.Equal(attrs, table("app=shop", "tier=db", "A=1", "AB=2", "tag=web")) {
		t.Errorf("%v, %v", attrs, err)
	}
	i.Config = nil
	if attrs, err := i.FileAttributes(); attrs != nil || err != nil {
		t.Errorf("%v, %v", attrs, err)
	}
}

func TestReceivers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string][2]string{"": {"", ""}, "udp://h": {"udp", "h:514"}, "tcp+tls://h:6514": {"tcp+tls", "h:6514"},
		"unixgram://" + socket: {"unixgram", socket}, "udp://[::1]": {"udp", "[::1]:514"}} {
		r, err := ReadSyslog(table("syslog-address="+address, "syslog-facility=local3"))
		if err != nil || r.Proto != want[0] || r.Address != want[1] || r.Facility != 19<<3 {
			t.Errorf("%s: %+v, %v", address, r, err)
		}
	}
	for address, want := range map[string]FluentdReceiver{"": {Proto: "tcp", Host: "127.0.0.1", Port: 24224}, "h": {Proto: "tcp", Host: "h", Port: 24224},
		"tls://h:1": {Proto: "tls", Host: "h", Port: 1}, "unix:///s": {Proto: "unix", Path: "/s"}} {
		r, err := ReadFluentd(table("fluentd-address=" + address))
		if err != nil || r.Proto != want.Proto || r.Path != want.Path || want.Proto != "unix" && (r.Host != want.Host || r.Port != want.Port) {
			t.Errorf("%s: %+v, %v", address, r, err)
		}
	}
}
