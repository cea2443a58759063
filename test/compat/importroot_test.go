package compat

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hezi/test/harness"
)

// listing is what a data root holds, but for when its files were read.
func (d docker) listing() string {
	d.t.Helper()
	out, err := exec.Command("find", d.data, "-printf", "%p %i %m %u %g %s %T@ %C@ %l\n").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return string(out)
}

func (d docker) post(path, body string) {
	d.t.Helper()
	out, err := exec.Command("curl", "-sS", "--fail-with-body", "--unix-socket", strings.TrimPrefix(d.host, "unix://"), "-H", "Content-Type: application/json", "-d", body, "http://d"+path).CombinedOutput()
	if err != nil {
		d.t.Fatalf("POST %s: %v: %s", path, err, out)
	}
}

// taken is what an import has made of images and of containers' definitions.
func taken(t *testing.T, e *harness.Engine) map[string]any {
	t.Helper()
	out := map[string]any{"images": e.Must(t, "images", "--no-trunc", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}}")}
	for _, name := range []string{"web", "side", "old", "linked", "pinned", "mac"} {
		var list []struct {
			Name               string
			Config, HostConfig map[string]any
			Mounts             []map[string]any
			NetworkSettings    struct{ Networks map[string]map[string]any }
		}
		if err := json.Unmarshal([]byte(e.Must(t, "inspect", name)), &list); err != nil {
			t.Fatal(err)
		}
		c := list[0]
		for _, key := range []string{"Hostname", "Image"} { // of the container's id, and of the image that has no name
			delete(c.Config, key)
		}
		for _, key := range []string{"NetworkMode"} { // of the other's id
			delete(c.HostConfig, key)
		}
		for _, m := range c.Mounts { // below each engine's own root
			delete(m, "Source")
		}
		for _, n := range c.NetworkSettings.Networks {
			for _, key := range []string{"NetworkID", "DNSNames"} {
				delete(n, key)
			}
		}
		out[name] = c
	}
	return out
}

// readerRights are the capabilities and no_new_privs of all threads of a reader.
func readerRights(t *testing.T, dataRoot string) string {
	t.Helper()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "ours"), os.NewFile(uintptr(ends[1]), "theirs")
	cmd := exec.Command(filepath.Join(harness.Bin(), "hezid"), "docker-root", dataRoot)
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _, _ = theirs.Close(), ours.Close(), cmd.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	said, err := exec.Command("sh", "-c", `cat /proc/$0/task/*/status | grep -E 'CapPrm|CapEff|NoNewPrivs' | sort -u`, strconv.Itoa(cmd.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(said)), " ")
}

// TestImportDataRoot moves from the data root of a Docker that was stopped: what
// is made is the same as from the API, and nothing of Docker's is touched.
func TestImportDataRoot(t *testing.T) {
	d := startDocker(t)
	d.fill()
	defer func() { _ = exec.Command("sh", "-c", "ip link del dk-import0; ip link del dk-import1").Run() }()
	// Layers that hide, replace and rename what is below them.
	d.do("run", "--security-opt", "seccomp=unconfined", "--ulimit", "nofile=1024:1024", "--network", "none", "--name", "change", "busybox", "sh", "-c",
		`rm /bin/vi; rm -rf /etc; mkdir /etc; echo new >/etc/file; ln /bin/busybox /hard; ln -s /etc /absolute; mkfifo /fifo; chown 7:8 /home; >'/two
lines'; mv /bin /bin2; /bin2/busybox ln -s bin2 /bin`)
	d.do("commit", "change", "team/changed:2")
	d.do("rm", "change")
	d.do("network", "create", "-o", "com.docker.network.bridge.name=dk-import1", "--subnet", "10.231.9.0/24", "--gateway", "10.231.9.1", "--ip-range", "10.231.9.128/25", "--internal", "lan")
	// Docker's client of today cannot ask one of 20.10 for a MAC address.
	d.post("/v1.41/containers/create?name=linked", `{"Image": "busybox", "Cmd": ["true"], "MacAddress": "02:42:00:00:00:07", "HostConfig": {"NetworkMode": "backend"},
		"NetworkingConfig": {"EndpointsConfig": {"backend": {"Links": ["web:w"]}}}}`)
	// A container of an image by its digest, which no archive has.
	pushed := harness.Registry(t) + "/bb:1"
	d.do("tag", "busybox", pushed)
	d.do("push", pushed)
	d.do("create", "--name", "pinned", "--network", "none", d.do("inspect", "-f", "{{index .RepoDigests 0}}", pushed), "true")

	api := harness.Start(t)
	root := func(e *harness.Engine, args ...string) harness.Result {
		return e.Hezi(append([]string{"system", "import-docker", "--data-root", d.data}, args...)...)
	}
	if r := root(api); r.Code != 1 || !strings.Contains(r.Err, "a Docker daemon runs on "+d.data+": stop it") {
		t.Errorf("a Docker that runs: %+v", r)
	}
	r := api.Hezi("system", "import-docker", "--from", d.host, "--keep-subnets")
	if r.Code != 0 {
		t.Fatalf("from the API: %+v", r)
	}
	want, said := taken(t, api), r.Out
	api.Must(t, "rm", "-f", "web", "side", "old", "fixed", "mac", "linked", "pinned")
	api.Must(t, "network", "rm", "backend", "lan")
	d.stop()
	before := d.listing()
	// A build with the race detector has cgo, with which it cannot give up rights.
	if got := readerRights(t, d.data); os.Getenv("HEZI_TEST_BIN") == "" && got != "CapEff: 000000000000000c CapPrm: 000000000000000c NoNewPrivs: 1" {
		t.Errorf("the reader has more rights than it needs to read: %s", got)
	}

	e := harness.Start(t)
	if r := root(e, "--dry-run", "--keep-subnets"); r.Code != 0 || strings.Count(r.Out, "would take") != strings.Count(said, "\n") || e.Must(t, "images", "-q") != "" {
		t.Errorf("--dry-run: %+v", r)
	}
	if r := root(e, "--keep-subnets"); r.Code != 0 || len(strings.Fields(r.Out)) != len(strings.Fields(said)) {
		t.Fatalf("%+v\nthe API: %s", r, said)
	}
	for what, got := range taken(t, e) {
		if !reflect.DeepEqual(got, want[what]) {
			t.Errorf("%s: the data root gave\n%+v\nand the API\n%+v", what, got, want[what])
		}
	}
	for _, c := range []struct{ want, format, of string }{
		{"10.231.9.0/24 10.231.9.128/25 10.231.9.1 true bridge", "{{with index .IPAM.Config 0}}{{.Subnet}} {{.IPRange}} {{.Gateway}}{{end}} {{.Internal}} {{.Driver}}", "lan"},
		{"b", "{{.Labels.a}}", "backend"},
		{"yes", "{{.Labels.keep}}", "data"},
		{"size=1m", "{{.Options.o}}", "scratch"},
		{"02:42:00:00:00:07", `{{(index .NetworkSettings.Networks "backend").MacAddress}}`, "linked"},
	} {
		if got := e.Must(t, "inspect", "-f", c.format, c.of); got != c.want {
			t.Errorf("%s: %q, want %q", c.of, got, c.want)
		}
	}
	e.Must(t, "start", "web", "side", "old")
	if got := e.Must(t, "exec", "web", "sh", "-c", "cat /data/file; stat -c '%a %u' /data/file"); got != "from docker\n640 33" {
		t.Errorf("in web: %q", got)
	}
	if got := e.Must(t, "run", "--rm", "--network", "none", "team/changed:2", "sh", "-c", "ls /etc/file /bin/vi /bin2/sh /two* 2>&1; stat -c '%u:%g' /home"); !strings.Contains(got, "vi: No such file") || !strings.Contains(got, "/two?lines") || !strings.HasSuffix(got, "7:8") {
		t.Errorf("in team/changed:2: %q", got)
	}
	// An import that was killed leaves its way to a volume, and the next one takes it away.
	way := []string{"volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", "device=" + filepath.Join(d.data, "volumes/data/_data")}
	left, own := e.Must(t, append(way, "--label", "com.docker.volume.anonymous=")...), e.Must(t, append(way, "own")...)
	if r := root(e); r.Code != 0 || strings.Count(r.Out, "is there already\n") != strings.Count(r.Out, "\n") {
		t.Errorf("again: %+v", r)
	}
	if got := strings.Fields(e.Must(t, "volume", "ls", "-q")); slices.Contains(got, left) || !slices.Contains(got, own) || !slices.Contains(got, "data") {
		t.Errorf("volumes after another import: %q", got)
	}
	if after := d.listing(); after != before {
		t.Errorf("Docker's data root was\n%s\nand is\n%s", before, after)
	}
	// What cannot be.
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--data-root", "/nonexistent"}, "there is no data root of Docker's at /nonexistent"},
		{[]string{"--data-root", t.TempDir()}, "it has no volumes/metadata.db"},
		{[]string{"--data-root", d.data, "--from", d.host}, "name one of them"},
		{[]string{"--data-root", ""}, "--data-root names no folder"},
		{[]string{"--containerd-root", "/x"}, "name that with --data-root"},
	} {
		if r := e.Hezi(append([]string{"system", "import-docker"}, c.args...)...); r.Code != 1 || !strings.Contains(r.Err, c.want) {
			t.Errorf("%v: %+v", c.args, r)
		}
	}
}

// TestImportDamagedRoot: a layer's file that was changed is found, and the rest comes.
func TestImportDamagedRoot(t *testing.T) {
	d := startDocker(t)
	archive, err := harness.BusyboxArchive()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(archive)
	d.do("load", "-i", archive)
	d.do("volume", "create", "data")
	d.do("volume", "create", "odd")
	d.stop()
	if err := os.Remove(filepath.Join(d.data, "volumes/odd/_data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(d.data, "volumes/odd/_data")); err != nil {
		t.Fatal(err)
	}
	blobs, _ := filepath.Glob(filepath.Join(d.data, "overlay2/*/diff/bin/busybox"))
	what := `"bin/busybox"`
	if len(blobs) == 0 { // the containerd image store
		what = "damaged"
		out, err := exec.Command("sh", "-c", `ls -S "$0"/containerd/daemon/io.containerd.content.v1.content/blobs/sha256/* | head -1`, d.data).Output()
		if err != nil {
			t.Fatal(err)
		}
		blobs = strings.Fields(string(out))
	}
	f, err := os.OpenFile(blobs[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 12345); err != nil {
		t.Fatal(err)
	}
	f.Close()
	e := harness.Start(t)
	r := e.Hezi("system", "import-docker", "--data-root", d.data)
	if r.Code != 1 || r.Out != "volume data\n" || !strings.Contains(r.Err, "image busybox:latest: not taken: ") || !strings.Contains(r.Err, what) || !strings.Contains(r.Err, "volume odd: not taken: ") || !strings.Contains(r.Err, "is no folder") {
		t.Errorf("%+v", r)
	}
}
