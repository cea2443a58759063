package users

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"hezi/internal/box"
)

// defaultUser is made and used when userns-remap is "default", as by dockerd.
const defaultUser = "dockremap"

// Remap reads userns-remap as dockerd does: user, user:group, uid, uid:gid or
// default. The mapping is of the user's subordinate ids; nil with no error is
// root, who cannot be mapped to itself.
func Remap(spec string) (*box.Users, error) {
	name, err := remapped(spec)
	if err != nil || name == "root" {
		return nil, err
	}
	m, err := user.LoadIdentityMapping(name)
	if err != nil {
		return nil, fmt.Errorf("userns-remap: error creating ID mappings: %w: give %s ids in /etc/subuid and /etc/subgid", err, name)
	}
	u := &box.Users{UIDs: maps(m.UIDMaps), GIDs: maps(m.GIDMaps)}
	if _, _, ok := u.Root(); !ok {
		return nil, fmt.Errorf("userns-remap: %s has no ids in /etc/subuid and /etc/subgid", name)
	}
	return u, nil
}

func maps(list []user.IDMap) []box.IDMap {
	var out []box.IDMap
	for _, m := range list {
		out = append(out, box.IDMap{Container: uint32(m.ID), Host: uint32(m.ParentID), Size: uint32(m.Count)})
	}
	return out
}

// remapped checks the user and the group, and gives the user's name.
func remapped(spec string) (string, error) {
	who, group, hasGroup := strings.Cut(spec, ":")
	if strings.Contains(group, ":") || who == "" || hasGroup && group == "" {
		return "", fmt.Errorf("userns-remap: Invalid user/group specification in --userns-remap: %q", spec)
	}
	name := who
	if uid, err := strconv.ParseUint(who, 10, 31); err == nil {
		u, err := lookup("passwd", who, func() (user.User, error) { return user.LookupUid(int(uid)) }, user.ParsePasswd)
		if err != nil {
			return "", fmt.Errorf("userns-remap: Uid %d has no entry in /etc/passwd: %w", uid, err)
		}
		name = u.Name
	} else {
		if who == "default" {
			name = defaultUser
		}
		_, err := lookup("passwd", name, func() (user.User, error) { return user.LookupUser(name) }, user.ParsePasswd)
		switch {
		case err != nil && who == "default":
			if err := makeUser(name); err != nil {
				return "", fmt.Errorf("userns-remap: Error during %q user creation: %w", name, err)
			}
			return name, nil
		case err != nil:
			return "", fmt.Errorf("userns-remap: Error during uid lookup for %q: %w", name, err)
		}
	}
	if !hasGroup {
		if group = name; name != who && who != "default" {
			group = who // a number stands for the group of the same number
		}
	}
	return name, checkGroup(group)
}

func checkGroup(group string) error {
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		if _, err := lookup("group", group, func() (user.Group, error) { return user.LookupGid(int(gid)) }, user.ParseGroup); err != nil {
			return fmt.Errorf("userns-remap: Gid %d has no entry in /etc/group: %w", gid, err)
		}
		return nil
	}
	if _, err := lookup("group", group, func() (user.Group, error) { return user.LookupGroup(group) }, user.ParseGroup); err != nil {
		return fmt.Errorf("userns-remap: Error during gid lookup for %q: %w", group, err)
	}
	return nil
}

// lookup asks the local files, and then getent for those that are elsewhere.
func lookup[T any](database, key string, local func() (T, error), parse func(r io.Reader) ([]T, error)) (T, error) {
	v, err := local()
	if err == nil {
		return v, nil
	}
	out, gerr := exec.Command("getent", database, key).Output()
	if gerr != nil {
		return v, err
	}
	list, gerr := parse(bytes.NewReader(out))
	if gerr != nil || len(list) == 0 {
		return v, err
	}
	return list[0], nil
}

// makeUser makes the system user and its ranges, by the host's own programs.
func makeUser(name string) error {
	add := exec.Command("useradd", "-r", "-U", "-M", "-s", "/bin/false", name)
	if add.Err != nil {
		add = exec.Command("adduser", "--system", "--shell", "/bin/false", "--no-create-home", "--disabled-login", "--disabled-password", "--group", name)
	}
	if out, err := add.CombinedOutput(); err != nil {
		return fmt.Errorf("failed to add user with error: %w; output: %q", err, out)
	}
	for _, f := range []struct{ file, flag string }{{"/etc/subuid", "-v"}, {"/etc/subgid", "-w"}} {
		all, err := user.ParseSubIDFile(f.file)
		if err != nil {
			return fmt.Errorf("can't find available range: %w", err)
		}
		if slices.ContainsFunc(all, func(s user.SubID) bool { return s.Name == name }) {
			continue
		}
		slices.SortFunc(all, func(a, b user.SubID) int { return cmp.Compare(a.SubID, b.SubID) })
		start := int64(100000)
		for _, s := range all {
			if start < s.SubID+s.Count && s.SubID < start+DefaultSize {
				start = s.SubID + s.Count
			}
		}
		if out, err := exec.Command("usermod", f.flag, fmt.Sprintf("%d-%d", start, start+DefaultSize-1), name).CombinedOutput(); err != nil {
			return fmt.Errorf("unable to add a range to user %s in %s; output: %s, err: %w", name, f.file, out, err)
		}
	}
	return nil
}
