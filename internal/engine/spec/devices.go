package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// checkDevices refuses what cannot be a device mapping or rule, before
// anything is made.
func checkDevices(h *container.HostConfig) error {
	for _, d := range h.Devices {
		switch {
		case d.PathOnHost == "" || !path.IsAbs(d.PathInContainer):
			return invalid("invalid device mapping %q to %q: a path of the host and an absolute path in the container are needed", d.PathOnHost, d.PathInContainer)
		case !validAccess(d.CgroupPermissions) && d.CgroupPermissions != "":
			return invalid("bad mode specified: %s: permissions of the device %s are made of r, w and m", d.CgroupPermissions, d.PathOnHost)
		}
	}
	for _, r := range h.DeviceCgroupRules {
		if _, err := deviceRule(r); err != nil {
			return err
		}
	}
	return nil
}

func validAccess(s string) bool { return s != "" && len(s) <= 3 && strings.Trim(s, "rwm") == "" }

// deviceRule reads a rule such as "c 1:3 rwm" (kernel: cgroup-v1/devices.rst).
func deviceRule(s string) (box.DeviceRule, error) {
	bad := invalid("invalid device cgroup rule format: '%s': write TYPE MAJOR:MINOR ACCESS, as in c 1:3 rwm or b 8:* r", s)
	fields := strings.Split(s, " ")
	if len(fields) != 3 || len(fields[0]) != 1 || !strings.Contains("abc", fields[0]) || !validAccess(fields[2]) {
		return box.DeviceRule{}, bad
	}
	r := box.DeviceRule{Type: fields[0], Access: fields[2]}
	major, minor, ok := strings.Cut(fields[1], ":")
	if !ok {
		return r, bad
	}
	for _, n := range []struct {
		text string
		to   *int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if n.text == "*" {
			*n.to = -1
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 32)
		if err != nil || v == 1<<32-1 { // the kernel's word for all
			return r, bad
		}
		*n.to = int64(v)
	}
	return r, nil
}

// devices are the nodes that a container gets beside the default ones, and
// what its cgroup allows. A privileged container has all of the host's and may
// use every one.
func devices(h *container.HostConfig) (nodes []box.Device, rules []box.DeviceRule, err error) {
	if h.Privileged {
		if nodes, err = hostDevices(); err != nil {
			return nil, nil, err
		}
	}
	for _, d := range h.Devices {
		if h.Privileged && path.Clean(d.PathOnHost) == path.Clean(d.PathInContainer) {
			continue // with the host's
		}
		found, err := devicesAt(d.PathOnHost, d.PathInContainer)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range found {
			nodes = append(nodes, n)
			if !h.Privileged && d.CgroupPermissions != "" {
				rules = append(rules, box.DeviceRule{Type: n.Type, Major: n.Major, Minor: n.Minor, Access: d.CgroupPermissions})
			}
		}
	}
	if h.Privileged {
		return nodes, nil, nil
	}
	for _, s := range h.DeviceCgroupRules {
		r, err := deviceRule(s)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, r)
	}
	return nodes, rules, nil
}

var errNoDevice = errors.New("not a device node")

// devicesAt is the device at a path of the host, or those below it. A link is
// followed; links below a directory are not.
func devicesAt(onHost, inside string) ([]box.Device, error) {
	bad := func(err error) error {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err
		}
		return fmt.Errorf("error gathering device information while adding custom device %q: %w", onHost, err) // Docker's words
	}
	resolved, err := filepath.EvalSymlinks(onHost)
	if err != nil {
		return nil, bad(err)
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return nil, bad(err)
	}
	if !info.IsDir() {
		d, ok := deviceOf(info)
		if !ok {
			return nil, bad(errNoDevice)
		}
		d.Path = inside
		return []box.Device{d}, nil
	}
	var list []box.Device
	err = filepath.WalkDir(resolved, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // a device may go away while the folder is read
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if d, ok := deviceOf(info); ok {
			d.Path = path.Join(inside, strings.TrimPrefix(p, resolved))
			list = append(list, d)
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errNoDevice
	}
	if err != nil {
		return nil, bad(err)
	}
	return list, nil
}

// deviceOf is a device node with the host's numbers, mode and owner.
func deviceOf(info fs.FileInfo) (box.Device, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return box.Device{}, false
	}
	kind := "b"
	if info.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	return box.Device{Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: uint32(info.Mode().Perm()), UID: st.Uid, GID: st.Gid}, true
}

// hostDevices are the device nodes of the host's /dev, for privileged containers.
func hostDevices() ([]box.Device, error) {
	var list []box.Device
	err := filepath.WalkDir("/dev", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a device may go away while the folder is read
		}
		if d.IsDir() {
			switch p {
			case "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd":
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil || p == "/dev/console" || p == "/dev/ptmx" {
			return nil
		}
		if node, ok := deviceOf(info); ok {
			node.Path = p
			list = append(list, node)
		}
		return nil
	})
	return list, err
}
