package e2e

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/test/harness"
)

// TestNothingIsLoaded: no program of the engine loads a library or a module when it
// runs. One that does, in a container's root, runs what the image has
// (CVE-2019-14271: libnss of the image, in docker cp).
func TestNothingIsLoaded(t *testing.T) {
	var programs []string
	for _, name := range []string{"hezi", "hezid", "hezi-keeper"} {
		programs = append(programs, filepath.Join(harness.Repo(), "bin", name)) // with the race detector they are for tests alone
	}
	inside, err := filepath.Glob(filepath.Join(harness.Repo(), "internal/box/initbin/bin", "hezi-*"))
	if err != nil || len(inside) < 3 {
		t.Fatalf("%v, %v: make build", inside, err)
	}
	for _, name := range append(programs, inside...) {
		f, err := elf.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s has a %s segment: it is not static", name, p.Type)
			}
		}
		f.Close()
	}
}

// TestNamesFromTheImage: who the user is comes from the image's files alone, whatever
// they are and whatever libraries are there.
func TestNamesFromTheImage(t *testing.T) {
	engine.Must(t, "run", "-d", "--name", "names", "busybox", "sh", "-c", `mkdir -p /lib /lib64 /etc
for l in libnss_files.so.2 libnss_compat.so.2 libc.so.6; do printf '#!/bin/sh\necho ran > /ran\n' > /lib/$l; chmod +x /lib/$l; ln -sf /lib/$l /lib64/$l; done
echo 'passwd: files compat' > /etc/nsswitch.conf; echo 'eve:x:77:78::/home/eve:/bin/sh' >> /etc/passwd; echo ok > /made; exec sleep 1000`)
	defer engine.Must(t, "rm", "-f", "names")
	engine.Must(t, "exec", "names", "sh", "-c", "until [ -e /made ]; do usleep 10000; done")
	if out := engine.Must(t, "exec", "-u", "eve", "names", "id", "-u"); out != "77" {
		t.Errorf("%q", out)
	}
	engine.Must(t, "export", "-o", filepath.Join(t.TempDir(), "out.tar"), "names")
	if r := engine.Hezi("-H", engine.Host, "exec", "names", "test", "-e", "/ran"); r.Code != 1 {
		t.Errorf("a library of the image ran: %+v", r)
	}
	// A fifo for a database is refused, and not waited for.
	engine.Must(t, "exec", "names", "sh", "-c", "rm /etc/passwd; mkfifo /etc/passwd")
	if r := engine.Hezi("-H", engine.Host, "exec", "-u", "eve", "names", "id"); r.Code == 0 || !strings.Contains(r.Err, "/etc/passwd in the container is not a file of a usual size") {
		t.Errorf("%+v", r)
	}
}

// TestNoAbstractSockets: with the host's network a container reaches every socket
// with an abstract name (CVE-2020-15257: containerd's shim). The engine has none.
func TestNoAbstractSockets(t *testing.T) {
	engine.Must(t, "run", "-d", "--name", "abstract", "--network", "host", "busybox", "sleep", "1000")
	defer engine.Must(t, "rm", "-f", "abstract")
	names := map[string]string{} // by inode
	for line := range strings.Lines(engine.Must(t, "exec", "abstract", "cat", "/proc/net/unix")) {
		if f := strings.Fields(line); len(f) > 7 {
			names[f[6]] = f[7]
		}
	}
	keeper, holder := engine.Keeper()
	sockets := 0
	for _, pid := range []int{engine.PID(), keeper, holder} {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range list {
			to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
			if err != nil { // closed meanwhile
				continue
			}
			name := names[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")]
			if name != "" {
				sockets++
			}
			if strings.HasPrefix(name, "@") {
				t.Errorf("process %d has the socket %s", pid, name)
			}
		}
	}
	if sockets < 2 { // the API's and the keeper's
		t.Errorf("%d sockets with names were found", sockets)
	}
}
