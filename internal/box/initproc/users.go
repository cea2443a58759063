package initproc

import (
	"slices"
	"strconv"
	"strings"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const maxDatabase = 16 << 20 // bytes of a passwd or group file that are read

// Identify is who a program runs as by the databases in the calling thread's
// root: a user's number and main group, all groups, and the home directory.
func Identify(p *plan.Process) (uid, gid int, groups []uint32, home string, err error) {
	who, err := identify(p)
	if err != nil {
		return 0, 0, nil, "", err
	}
	return who.uid, who.gid, who.groups, who.home, nil
}

// identity is who the program runs as.
type identity struct {
	uid, gid int
	groups   []uint32
	home     string
}

// readDatabase reads a passwd or group file as lines of fields. The root is
// the container's by now; a fifo or a device there is refused, not waited for.
func readDatabase(name string) ([][]string, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, fail("user", name, err, "cannot read "+name+" in the container")
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fail("user", name, err, "cannot read "+name+" in the container")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxDatabase {
		return nil, fail("user", name, nil, name+" in the container is not a file of a usual size")
	}
	text := make([]byte, st.Size)
	n, err := unix.Pread(fd, text, 0)
	if err != nil {
		return nil, fail("user", name, err, "cannot read "+name+" in the container")
	}
	var out [][]string
	for line := range strings.SplitSeq(string(text[:n]), "\n") {
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' {
			out = append(out, strings.Split(line, ":"))
		}
	}
	return out, nil
}

func field(f []string, i int) string {
	if i < len(f) {
		return f[i]
	}
	return ""
}

func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}

func badUser(subject, message string) error {
	return &plan.Error{Step: "user", Subject: subject, Message: message, ExitCode: 125}
}

// identify resolves what --user and --group-add say, in the words of
// moby/sys/user, on which scripts rely. The main group is among the additional
// ones too, as with Docker: a program that drops it (setgid) would otherwise
// escape permissions that deny something to that group (CVE-2022-36109).
func identify(p *plan.Process) (*identity, error) {
	who := &identity{home: "/"}
	passwd, err := readDatabase("/etc/passwd")
	if err != nil {
		return nil, err
	}
	groups, err := readDatabase("/etc/group")
	if err != nil {
		return nil, err
	}
	user, group, _ := strings.Cut(p.User, ":")
	name, err := who.lookUser(user, passwd)
	if err != nil {
		return nil, err
	}
	if group != "" {
		who.gid, err = lookGroup(group, groups)
		if err != nil {
			return nil, err
		}
	}
	who.join(who.gid)
	if group == "" && name != "" {
		who.memberships(name, groups)
	}
	for _, g := range p.AdditionalGroups {
		gid, err := lookGroup(g, groups)
		if err != nil {
			return nil, err
		}
		who.join(gid)
	}
	return who, nil
}

// lookUser sets uid, gid and home, and returns the name, if there is one.
func (who *identity) lookUser(user string, passwd [][]string) (string, error) {
	id, numeric := number(user)
	if user == "" {
		id, numeric = 0, true
	}
	for _, f := range passwd {
		uid, ok := number(field(f, 2))
		if !ok || (f[0] != user || user == "") && !(numeric && uid == id) {
			continue
		}
		who.uid = uid
		who.gid, _ = number(field(f, 3))
		if home := field(f, 5); home != "" {
			who.home = home
		}
		return f[0], nil
	}
	if !numeric {
		if strings.Trim(user, "-0123456789") == "" {
			return "", badUser(user, "uids and gids must be in range 0-2147483647")
		}
		return "", badUser(user, "unable to find user "+user+": no matching entries in passwd file")
	}
	who.uid = id
	return "", nil
}

// memberships adds the groups of which name is a member.
func (who *identity) memberships(name string, groups [][]string) {
	for _, f := range groups {
		gid, ok := number(field(f, 2))
		if !ok {
			continue
		}
		for member := range strings.SplitSeq(field(f, 3), ",") {
			if member == name {
				who.join(gid)
				break
			}
		}
	}
}

func (who *identity) join(gid int) {
	if g := uint32(gid); !slices.Contains(who.groups, g) {
		who.groups = append(who.groups, g)
	}
}

func lookGroup(group string, groups [][]string) (int, error) {
	id, numeric := number(group)
	for _, f := range groups {
		if gid, ok := number(field(f, 2)); ok && (f[0] == group || numeric && gid == id) {
			return gid, nil
		}
	}
	if !numeric {
		if strings.Trim(group, "-0123456789") == "" {
			return 0, badUser(group, "uids and gids must be in range 0-2147483647")
		}
		return 0, badUser(group, "unable to find group "+group+": no matching entries in group file")
	}
	return id, nil
}

// inside refuses ids that the box's user namespace does not have.
func inside(p *plan.Plan, who *identity) error {
	if len(p.UIDs) == 0 {
		return nil
	}
	_, ok := hostID(p.UIDs, who.uid)
	if !ok {
		return badUser(strconv.Itoa(who.uid), "the user "+strconv.Itoa(who.uid)+" is not one of the ids in the container's user namespace: give it more, as with --userns=auto:size=N")
	}
	for _, g := range append([]uint32{uint32(who.gid)}, who.groups...) {
		if _, ok := hostID(p.GIDs, int(g)); !ok {
			return badUser(strconv.Itoa(int(g)), "the group "+strconv.Itoa(int(g))+" is not one of the ids in the container's user namespace: give it more, as with --userns=auto:size=N")
		}
	}
	return nil
}

func hostID(maps []plan.IDMap, id int) (int, bool) {
	for _, m := range maps {
		if id >= int(m.Container) && id-int(m.Container) < int(m.Size) {
			return int(m.Host) + id - int(m.Container), true
		}
	}
	return 0, false
}

// owner is who as this process must name them: one that joins is still among the
// host's users.
func owner(p *plan.Plan, who *identity) int {
	if id, ok := hostID(p.UIDs, who.uid); ok && p.Join {
		return id
	}
	return who.uid
}
