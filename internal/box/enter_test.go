package box

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestEnter: a box starts in the user namespace of another, with namespaces of its
// own that belong there, and with some of the other's.
func TestEnter(t *testing.T) {
	root := image(t)
	first := start(t, mappedSpec(t, root, "sh", "-c", "echo text >/dev/shm/x; sleep 100"))
	other := &Owner{ID: "first", Process: first.PidFD}
	its := func(name string) string {
		s, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", first.PID, name))
		return s
	}
	spec := mappedSpec(t, root, "sh", "-c", "id -u; for n in user pid ipc net; do readlink /proc/self/ns/$n; done; ps; cat /dev/shm/x; echo x >/new && mkdir /dev/d")
	spec.Namespaces.User = Namespace{Mode: NamespaceJoin, Of: other}
	out, _ := run(t, spec)
	if lines := strings.Split(out, "\n"); len(lines) < 5 || lines[0] != "0" || lines[1] != its("user") || lines[2] == its("pid") || lines[3] == its("ipc") || strings.Contains(out, "sleep") {
		t.Errorf("%q", out)
	}
	n := &spec.Namespaces
	n.PID, n.IPC, n.Net = n.User, n.User, n.User
	spec.Root.Overlay.Volatile = false
	spec.Mounts[len(spec.Mounts)-1] = Mount{Type: MountBind, Of: other, Source: "/dev/shm", Target: "/dev/shm"}
	if err := os.RemoveAll(spec.Root.Overlay.Work); err == nil {
		err = os.Mkdir(spec.Root.Overlay.Work, 0o755)
		if err != nil {
			t.Fatal(err)
		}
	}
	out, code := run(t, spec)
	want := strings.Join([]string{"0", its("user"), its("pid"), its("ipc"), its("net"), "PID"}, "\n")
	if code != 0 || !strings.HasPrefix(out, want) || !strings.Contains(out, "1 root     sleep") || !strings.HasSuffix(out, "\ntext\n") {
		t.Errorf("exit code %d, %q, want %q", code, out, want)
	}
	// Ids that are not that namespace's, and namespaces that do not belong to it.
	n.UTS = Namespace{Mode: NamespaceJoin, Path: "/proc/self/ns/uts"}
	if e := startError(t, spec); !strings.Contains(e.Message, "cannot join the uts namespace") {
		t.Error(e.Message)
	}
	if zombies := children(t); zombies != "" {
		t.Errorf("left: %s", zombies)
	}
}

// TestEnterDies: a hezi-enter that dies at once, as by the OOM killer, fails the
// start, which does not wait for its word.
func TestEnterDies(t *testing.T) {
	first := start(t, mappedSpec(t, image(t), "sleep", "100"))
	its, err := copyOf(first.PidFD)
	if err != nil {
		t.Fatal(err)
	}
	b := joinBirth()
	b.userNS = its
	defer b.close()
	enter, err := os.Open("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer enter.Close()
	r := &Runtime{init: testRuntime.init, enter: enter}
	r.enterOnce.Do(func() {})
	done := make(chan error, 1)
	go func() {
		_, err := r.spawn(b)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "without a word") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is waited for")
	}
	if zombies := children(t); zombies != "" {
		t.Errorf("left: %s", zombies)
	}
}

// children are the dead ones that nobody has reaped.
func children(t *testing.T) string {
	t.Helper()
	var dead []string
	list, _ := os.ReadDir("/proc")
	for _, d := range list {
		b, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err == nil && strings.Contains(string(b), fmt.Sprintf(") Z %d ", os.Getpid())) {
			dead = append(dead, string(b))
		}
	}
	return strings.Join(dead, "\n")
}
