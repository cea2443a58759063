package spec

import (
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
	"hezi/internal/engine/users"
)

// checkNamespaces refuses modes that do not exist or exclude each other, in
// Docker's words.
func checkNamespaces(c *container.Config, h *container.HostConfig) error {
	switch {
	case !h.IpcMode.Valid() || h.IpcMode.IsContainer() && h.IpcMode.Container() == "":
		return invalid("invalid IPC mode: %v: write none, private, shareable, host or container:NAME", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v: write host or container:NAME", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v: write host", h.UTSMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v: write host or private", h.CgroupnsMode)
	case h.UTSMode.IsHost() && c.Hostname != "":
		return invalid("conflicting options: hostname and the UTS mode")
	case h.UTSMode.IsHost() && c.Domainname != "":
		return invalid("conflicting options: domainname and the UTS mode")
	}
	_, err := users.Parse(h.UsernsMode)
	return err
}

// namespaces are those that the modes ask for.
func namespaces(in Input) box.Namespaces {
	h := in.HostConfig
	host := func(is bool) box.Namespace {
		if is {
			return box.Namespace{Mode: box.NamespaceHost}
		}
		return box.Namespace{}
	}
	n := box.Namespaces{Net: in.Net, PID: host(h.PidMode.IsHost()), IPC: host(h.IpcMode.IsHost()), UTS: host(h.UTSMode.IsHost()), Cgroup: host(h.CgroupnsMode.IsHost())}
	if in.UsersOf != nil {
		n.User = box.Namespace{Mode: box.NamespaceJoin, Of: in.UsersOf}
	}
	if in.PID != nil {
		n.PID = box.Namespace{Mode: box.NamespaceJoin, Of: in.PID}
	}
	if in.IPC != nil {
		n.IPC = box.Namespace{Mode: box.NamespaceJoin, Of: in.IPC}
	}
	return n
}

// sharedMemory is what is at /dev/shm: POSIX shared memory goes with the ipc
// namespace.
func sharedMemory(h *container.HostConfig, ipc *box.Owner) []box.Mount {
	const at = "/dev/shm"
	switch {
	case h.IpcMode.IsNone():
		return nil
	case h.IpcMode.IsHost():
		return []box.Mount{{Type: box.MountBind, Source: at, Target: at, Propagation: "rprivate"}}
	case ipc != nil:
		return []box.Mount{{Type: box.MountBind, Of: ipc, Source: at, Target: at, Propagation: "rprivate"}}
	}
	size := h.ShmSize
	if size == 0 {
		size = defaultShm
	}
	return []box.Mount{{Type: box.MountTmpfs, Target: at, NoSuid: true, NoExec: true, NoDev: true, Data: fmt.Sprintf("mode=1777,size=%d", size)}}
}

// hostsIPC says whether a sysctl of an ipc namespace would be the host's.
func hostsIPC(name string, h *container.HostConfig) error {
	if h.IpcMode.IsHost() {
		return invalid("sysctl %q is not allowed in the hosts ipc namespace: leave it or --ipc host out", strings.ReplaceAll(name, "/", "."))
	}
	return nil
}
