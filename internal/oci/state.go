package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// record is state.json.
type record struct {
	specs.State
	Started     uint64            `json:"started"` // of the process, in clock ticks since boot
	Created     time.Time         `json:"created"`
	CgroupPaths map[string]string `json:"cgroupPaths"`
	Scope       string            `json:"scope,omitempty"` // systemd's, which has Resources
	Resources   box.Resources     `json:"resources,omitzero"`
	Rootfs      string            `json:"rootfs"`
	Beside      *beside           `json:"beside,omitempty"`
	Poststart   []specs.Hook      `json:"poststart,omitempty"`
	Poststop    []specs.Hook      `json:"poststop,omitempty"`
}

// container is one below the root, locked while a call changes it.
type container struct {
	record
	dir  string
	lock *os.File
}

const (
	stateFile = "state.json"
	gateFile  = "start"
)

func checkID(id string) error {
	good := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r)
	}
	if id == "" || len(id) > 1024 || id == "." || id == ".." || strings.ContainsFunc(id, func(r rune) bool { return !good(r) }) {
		return fmt.Errorf("invalid container ID format: %q: letters, digits and _+-. can be used", id)
	}
	return nil
}

var errNoContainer = errors.New("container does not exist")

// open finds a container and locks it until close.
func (r *call) open(id string) (*container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &container{dir: filepath.Join(r.root, id)}
	var err error
	if c.lock, err = os.Open(c.dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, errNoContainer
		}
		return nil, err
	}
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX); err != nil {
		c.close()
		return nil, fmt.Errorf("lock %s: %w", c.dir, err)
	}
	text, err := os.ReadFile(filepath.Join(c.dir, stateFile))
	if errors.Is(err, os.ErrNotExist) { // removed meanwhile, or not made to the end
		c.close()
		return nil, errNoContainer
	}
	if err == nil {
		err = json.Unmarshal(text, &c.record)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("read the state of %s: %w", id, err)
	}
	return c, nil
}

func (c *container) close() { c.lock.Close() }

func (c *container) save() error {
	text, err := json.Marshal(&c.record)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(c.dir, stateFile), text)
}

// writeFile writes a file that is there whole or not at all.
func writeFile(name string, text []byte) error {
	temporary := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// started is when a process began, in clock ticks since boot (proc_pid_stat(5),
// field 22), and 0 for one that has ended. A zombie of which threads are left has
// not: only its first thread has.
func started(pid int) uint64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(f) < 20 || bytes.ContainsAny(f[0], "ZX") && len(f[17]) == 1 && f[17][0] <= '1' {
		return 0
	}
	n, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

const statusPaused specs.ContainerState = "paused" // of runc

// status is what the container is now.
func (c *container) status() specs.ContainerState {
	if s := started(c.Pid); s == 0 || s != c.Started {
		return specs.StateStopped
	}
	if _, err := os.Lstat(filepath.Join(c.dir, gateFile)); err == nil {
		return specs.StateCreated
	}
	if c.frozen() {
		return statusPaused
	}
	return specs.StateRunning
}

func (c *container) frozen() bool {
	if dir := c.CgroupPaths["freezer"]; dir != "" {
		text, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
		return err == nil && string(bytes.TrimSpace(text)) != "THAWED"
	}
	text, err := os.ReadFile(filepath.Join(c.CgroupPaths[""], "cgroup.freeze"))
	return err == nil && string(bytes.TrimSpace(text)) == "1"
}

// pidfd holds on to the container's process.
func (c *container) pidfd() (*os.File, error) {
	fd, err := unix.PidfdOpen(c.Pid, 0)
	if err == nil && started(c.Pid) != c.Started { // the number is another's by now
		unix.Close(fd)
		err = unix.ESRCH
	}
	if err != nil {
		return nil, errors.New("container not running")
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

func (c *container) group() (*cgroup.Group, error) { return cgroup.Open(c.CgroupPaths) }

// report is what `state` prints: the specification's, and runc's additions.
type report struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

func (c *container) report() report {
	r := report{State: c.State, Rootfs: c.Rootfs, Created: c.Created}
	if r.Status = c.status(); r.Status == specs.StateStopped {
		r.Pid = 0
	}
	return r
}

// all are the containers, by id.
func (r *call) all() ([]report, error) {
	entries, err := os.ReadDir(r.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	list := []report{}
	for _, e := range entries {
		c, err := r.open(e.Name())
		if errors.Is(err, errNoContainer) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c.report())
		c.close()
	}
	slices.SortFunc(list, func(a, b report) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}
