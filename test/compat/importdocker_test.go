package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// docker is a dockerd of a test's, which publishes nothing and makes no rules.
type docker struct {
	t    *testing.T
	host string
	data string // the data root
	stop func()
}

func startDocker(t *testing.T) docker {
	t.Helper()
	// Another Docker than Debian's is in a folder of its own.
	other := os.Getenv("HEZI_TEST_DOCKER")
	if other != "" {
		t.Setenv("PATH", other+":"+os.Getenv("PATH"))
	}
	program, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("dockerd is missing: make setup")
	}
	dir, err := os.MkdirTemp("", "docker-")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "daemon.json")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err == nil {
		err = os.WriteFile(config, []byte("{}"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d := docker{t: t, host: "unix://" + filepath.Join(dir, "s"), data: filepath.Join(dir, "data")}
	cmd := exec.Command(program, "--config-file", config, "--data-root", d.data, "--exec-root", filepath.Join(dir, "run"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", d.host, "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	d.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("dockerd's log:\n%s", b[max(0, len(b)-4000):])
		}
		d.stop()
		_ = exec.Command("sh", "-c", `for m in $(awk -v d="$0/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r); do umount -l "$m"; done`, dir).Run()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for range 600 {
		if exec.Command("docker", "-H", d.host, "version").Run() == nil {
			return d
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("dockerd does not answer")
	return d
}

func (d docker) do(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("docker", append([]string{"-H", d.host}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Join(os.TempDir(), "none"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("docker %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// all is what Docker has, to see that an import leaves it alone.
func (d docker) all() string {
	sorted := func(text string) string { // names of one image and a container's mounts come in any order
		lines := strings.Split(strings.ReplaceAll(text, ",\n", "\n"), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	return strings.Join([]string{sorted(d.do("images", "-a", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")), d.do("ps", "-a", "--format", "{{.ID}} {{.Names}} {{.State}}"),
		d.do("volume", "ls"), d.do("network", "ls"), sorted(d.do("inspect", "web", "side", "old"))}, "\n")
}

// fill gives Docker one of each kind. A bridge that it makes stays on the host until
// it is removed.
func (d docker) fill() {
	d.t.Helper()
	archive, err := harness.BusyboxArchive()
	if err != nil {
		d.t.Fatal(err)
	}
	defer os.Remove(archive)
	d.do("load", "-i", archive)
	d.do("tag", "busybox", "team/app:1")
	d.do("volume", "create", "--label", "keep=yes", "data")
	at := d.do("volume", "inspect", "-f", "{{.Mountpoint}}", "data")
	if err := os.WriteFile(filepath.Join(at, "file"), []byte("from docker\n"), 0o640); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(at, "file"), 33, 33); err != nil {
		d.t.Fatal(err)
	}
	d.do("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m", "scratch")
	d.do("network", "create", "--subnet", "10.231.7.0/24", "--label", "a=b", "-o", "com.docker.network.bridge.name=dk-import0", "backend")
	d.do("create", "--name", "web", "-e", "A=B", "-p", "127.0.0.1:26081:80", "-v", "data:/data", "-v", "/anonymous", "-v", "scratch:/scratch:ro", "--network", "backend",
		"--network-alias", "www", "--restart", "on-failure:3", "--label", "l=1", "--memory", "64m", "--cap-drop", "NET_RAW", "team/app:1", "httpd", "-f", "-p", "80", "-h", "/data")
	d.do("create", "--name", "side", "--network", "container:web", "--volumes-from", "web", "busybox", "sleep", "1000")
	unnamed := d.do("import", "-c", "CMD sh", harness.Debian(d.t))
	d.do("create", "--name", "old", "--network", "none", unnamed, "true")
	// Docker's client of today cannot ask one of 20.10 for a MAC address.
	if strings.HasPrefix(d.do("version", "-f", "{{.Server.Version}}"), "20.") {
		d.post("/v1.41/containers/create?name=mac", `{"Image": "busybox", "Cmd": ["sleep", "1000"], "MacAddress": "02:42:00:00:00:08", "HostConfig": {"NetworkMode": "backend", "SecurityOpt": ["seccomp=unconfined"], "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}]}}`)
	} else {
		d.do("create", "--name", "mac", "--mac-address", "02:42:00:00:00:08", "--network", "backend", "--security-opt", "seccomp=unconfined", "--ulimit", "nofile=1024:1024", "busybox", "sleep", "1000")
	}
	d.do("start", "mac")
	d.do("stop", "-t", "0", "mac") // Docker as of 25 then shows no address any more
	d.do("create", "--name", "fixed", "--network", "backend", "--ip", "10.231.7.77", "busybox", "sleep", "1000")
}

// TestImportDocker moves from a real dockerd to an engine of its own.
func TestImportDocker(t *testing.T) {
	d := startDocker(t)
	d.fill()
	defer d.do("network", "rm", "backend")
	defer d.do("rm", "-f", "web", "side", "old", "fixed", "mac")
	e := harness.Start(t)
	before := d.all()
	importing := func(args ...string) harness.Result {
		return e.Hezi(append([]string{"system", "import-docker", "--from", d.host}, args...)...)
	}
	if r := importing("--dry-run"); r.Code != 1 || !strings.Contains(r.Out, "would take container web\n") || e.Must(t, "ps", "-aq") != "" || e.Must(t, "images", "-q") != "" {
		t.Fatalf("--dry-run: %+v", r)
	}
	r := importing()
	if r.Code != 1 || !strings.Contains(r.Out, "network backend (not on the bridge dk-import0, which is Docker's)\n") ||
		r.Err != "container fixed: not taken: it asks for an address of its own in the network backend: hezi network rm backend, and import with --keep-subnets\n" {
		t.Fatalf("%+v", r)
	}
	if after := d.all(); after != before {
		t.Errorf("Docker had\n%s\nand has\n%s", before, after)
	}
	for _, c := range []struct{ want, format, of string }{
		{"team/app:1 [httpd -f -p 80 -h /data] 67108864 on-failure 3 1", "{{.Config.Image}} {{.Config.Cmd}} {{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{len .HostConfig.CapDrop}}", "web"},
		{"created true", `{{.State.Status}} {{eq .Config.Hostname (slice .Id 0 12)}}`, "web"},
		{"1", "{{.Config.Labels.l}}", "web"},
		{"container: 3", "{{slice .HostConfig.NetworkMode 0 10}} {{len .Mounts}}", "side"},
		{"b true", `{{.Labels.a}} {{ne (index .IPAM.Config 0).Subnet "10.231.7.0/24"}}`, "backend"},
		{"yes", "{{.Labels.keep}}", "data"},
		{"tmpfs", "{{.Options.type}}", "scratch"},
		{"02:42:00:00:00:08", `{{(index .NetworkSettings.Networks "backend").MacAddress}}`, "mac"},
	} {
		if got := e.Must(t, "inspect", "-f", c.format, c.of); got != c.want {
			t.Errorf("%s: %q, want %q", c.of, got, c.want)
		}
	}
	// What is taken works.
	e.Must(t, "start", "web", "side", "old")
	if got := e.Must(t, "exec", "web", "sh", "-c", "cat /data/file; stat -c '%a %u' /data/file; echo $A; nslookup www 2>&1 | grep -c 'Address.*10\\.\\|Address.*172\\.'"); !strings.HasPrefix(got, "from docker\n640 33\nB\n") {
		t.Errorf("in web: %q", got)
	}
	if got := e.Must(t, "exec", "side", "cat", "/data/file"); got != "from docker" {
		t.Errorf("in side: %q", got)
	}
	get := exec.Command("curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "http://127.0.0.1:26081/file")
	if out, err := get.CombinedOutput(); err != nil || string(out) != "from docker\n" {
		t.Errorf("what web publishes: %v %q", err, out)
	}
	// With Docker's subnets.
	e.Must(t, "rm", "-f", "web", "side", "mac")
	e.Must(t, "network", "rm", "backend")
	if r := importing("--keep-subnets"); r.Code != 0 || !strings.Contains(r.Out, "container fixed\n") {
		t.Fatalf("--keep-subnets: %+v", r)
	}
	// Again: everything is there.
	if r := importing(); r.Code != 0 || strings.Count(r.Out, "is there already\n") != strings.Count(r.Out, "\n") {
		t.Errorf("again: %+v", r)
	}
	if got := e.Must(t, "volume", "trash", "-q"); got != "" {
		t.Errorf("the import left in the trash: %s", got)
	}
	// What cannot be: another image of the name, no Docker, our own engine.
	e.Must(t, "rm", "-f", "web", "side", "old", "fixed", "mac")
	e.Must(t, "rmi", "-f", "team/app:1")
	e.Must(t, "import", harness.Debian(t), "team/app:1")
	if r := importing(); r.Code != 1 || !strings.Contains(r.Err, "image team/app:1: not taken: another image has this name in Hezi: hezi rmi it") {
		t.Errorf("another image: %+v", r)
	}
	if r := e.Hezi("system", "import-docker", "--from", e.Host); r.Code != 1 || !strings.Contains(r.Err, "is Hezi: name Docker's address with --from") {
		t.Errorf("our own: %+v", r)
	}
	if r := e.Hezi("system", "import-docker", "--from", "ssh://root@server.invalid"); r.Code != 1 || !strings.Contains(r.Err, "Docker on server.invalid and Hezi on this machine: ") {
		t.Errorf("another machine's: %+v", r)
	}
	if r := e.Hezi("system", "import-docker", "--from", "unix:///nonexistent"); r.Code != 1 || !strings.Contains(r.Err, "cannot ask Docker at unix:///nonexistent: ") {
		t.Errorf("no Docker: %+v", r)
	}
}
