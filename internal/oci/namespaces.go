package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
)

// namespaces says which are made, joined, or the caller's.
func namespaces(list []specs.LinuxNamespace) (box.Namespaces, error) {
	host := box.Namespace{Mode: box.NamespaceHost}
	n := box.Namespaces{PID: host, IPC: host, UTS: host, Net: host, Cgroup: host, Mount: host, User: host}
	kinds := map[specs.LinuxNamespaceType]*box.Namespace{specs.PIDNamespace: &n.PID, specs.IPCNamespace: &n.IPC, specs.UTSNamespace: &n.UTS,
		specs.NetworkNamespace: &n.Net, specs.CgroupNamespace: &n.Cgroup, specs.MountNamespace: &n.Mount, specs.UserNamespace: &n.User}
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, e := range list {
		if seen[e.Type] {
			return n, fmt.Errorf("malformed spec file: duplicated ns %q", e.Type)
		}
		seen[e.Type] = true
		to := kinds[e.Type]
		if to == nil {
			return n, fmt.Errorf("a namespace of type %q (path %q) is not supported by this runtime", e.Type, e.Path)
		}
		*to = box.Namespace{Path: e.Path}
		if e.Path != "" {
			to.Mode = box.NamespaceJoin
		}
	}
	return n, nil
}

// users are the ids of a user namespace that is made or joined; nil: the caller's.
func users(l *specs.Linux, n *box.Namespaces) (*box.Users, error) {
	u := &box.Users{UIDs: idMaps(l.UIDMappings), GIDs: idMaps(l.GIDMappings)}
	none := len(u.UIDs) == 0 && len(u.GIDs) == 0
	switch n.User.Mode {
	case box.NamespaceHost:
		if !none {
			return nil, errors.New("the bundle has linux.uidMappings or gidMappings, but no user namespace that they are for")
		}
		return nil, nil
	case box.NamespaceJoin:
		if !none {
			break
		}
		// A path of another kind says nothing of who is in the namespace.
		dir, ok := strings.CutSuffix(n.User.Path, "/ns/user")
		if !ok || filepath.Dir(dir) != "/proc" {
			return nil, fmt.Errorf("the ids of the user namespace %s are not known: name it as /proc/PID/ns/user, or write its linux.uidMappings and gidMappings", n.User.Path)
		}
		var err error
		if u, err = box.UsersOf(dir); err != nil {
			return nil, fmt.Errorf("the ids of the user namespace that is joined: %w", err)
		}
		if isCallers(n.User.Path) {
			n.User = box.Namespace{Mode: box.NamespaceHost}
			return nil, nil
		}
	}
	if len(u.UIDs) == 0 || len(u.GIDs) == 0 {
		return nil, errors.New("user namespaces enabled, but no uid or gid mappings found")
	}
	return u, nil
}

// isCallers says whether a user namespace is the one that this process is in, which
// nobody can join.
func isCallers(path string) bool {
	its, err := os.Stat(path)
	if err != nil {
		return false // whoever opens it says why
	}
	ours, err := os.Stat("/proc/self/ns/user")
	return err == nil && os.SameFile(its, ours)
}

func idMaps(list []specs.LinuxIDMapping) (out []box.IDMap) {
	for _, m := range list {
		out = append(out, box.IDMap{Container: m.ContainerID, Host: m.HostID, Size: m.Size})
	}
	return out
}
