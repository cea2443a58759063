package users

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/copytree"
	"hezi/internal/engine/labels"
)

// What stands for the owners of a bind's files.
const (
	IDMap     = "idmap"      // the ids on disk are the container's
	MatchUser = "match-user" // the source's owner is the container's user
)

// Owners says how the owners of a container's binds and volumes are mapped.
type Owners struct {
	Mode  container.UsernsMode
	Users *box.Users // the container's; nil: the host's
	User  string     // as --user has it
	// Root opens the container's root file system, to look for User there.
	Root func() (*os.File, error)

	who *user.ExecUser // who the container runs as, once it was asked for
}

// Of gives the mapping of a bind of source at target, or of a volume; nil: the
// owners are as they are. A container with ids of its own sees volumes as they are on disk, and, unlike with
// userns-remap, binds too.
func (o *Owners) Of(how, source, target string, volume bool) (*box.Users, error) {
	mode, err := Parse(o.Mode)
	if err != nil {
		return nil, err
	}
	switch {
	case how == MatchUser:
		return o.match(source, target)
	case how == IDMap && o.Users == nil:
		return nil, invalid("%s:%s:idmap: the container has no user namespace, so its ids are the host's already: add --userns=auto, or use match-user", source, target)
	case how == IDMap, volume, mode.Auto:
		return o.Users, nil
	}
	return nil, nil
}

// match makes the owner of a bind's source the user that the container runs as, and
// nobody else anyone: other owners' files are nobody's inside, also for root
// there, and nothing can be made in their name.
func (o *Owners) match(source, target string) (*box.Users, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	st := info.Sys().(*syscall.Stat_t)
	refuse := func(why string) (*box.Users, error) {
		return nil, invalid("%s:%s:match-user: %s", source, target, why)
	}
	// What the container then writes as root's could be a program that any user
	// of the host runs as root.
	if st.Uid == 0 {
		return refuse("the folder belongs to root, as whom the container would write on the host: give it to a user (chown), or leave the option out")
	}
	if st.Gid == 0 {
		return refuse("the folder's group is root's, as which the container would write on the host: give it another (chgrp), or leave the option out")
	}
	uid, gid, ok, err := o.hostUser()
	if err != nil {
		return nil, err
	}
	if !ok {
		return refuse(notMapped)
	}
	return &box.Users{UIDs: []box.IDMap{{Container: st.Uid, Host: uid, Size: 1}}, GIDs: []box.IDMap{{Container: st.Gid, Host: gid, Size: 1}}}, nil
}

const notMapped = "the container's user is not one of the ids in its user namespace: give it more, as with --userns=auto:size=N"

// hostUser is who the container's user is on the host; ok is false where it has no ids
// there.
func (o *Owners) hostUser() (uid, gid uint32, ok bool, err error) {
	who, err := o.Who()
	if err != nil {
		return 0, 0, false, err
	}
	uid, gid, ok = who.UID, who.GID, true
	if m := o.Users; m != nil {
		if uid, ok = box.HostID(m.UIDs, uid); ok {
			gid, ok = box.HostID(m.GIDs, gid)
		}
	}
	return uid, gid, ok, nil
}

// Who is the container's user, by the container's ids.
func (o *Owners) Who() (id box.IDs, err error) {
	if o.who == nil {
		if o.who, err = o.user(); err != nil {
			return id, err
		}
	}
	return box.IDs{UID: uint32(o.who.Uid), GID: uint32(o.who.Gid)}, nil
}

// Give gives what is at source on the host to the container's user, as it is seen through
// a mount whose owners are mapped or not. Errors: InvalidArgument.
func (o *Owners) Give(source, target string, mapped bool) error {
	real, err := filepath.EvalSymlinks(source)
	if errors.Is(err, os.ErrNotExist) { // the mount says so
		return nil
	}
	if err != nil {
		return err
	}
	refuse := func(why string) error { return invalid("%s:%s:U: %s", source, target, why) }
	if labels.OfHost(real) {
		return refuse("the whole machine needs the owners of the files in " + real + ": mount a folder of the container's own")
	}
	id, err := o.Who()
	if err != nil {
		return err
	}
	if !mapped { // else the ids on disk are the container's
		var ok bool
		if id.UID, id.GID, ok, err = o.hostUser(); err != nil {
			return err
		} else if !ok {
			return refuse(notMapped)
		}
	}
	fd, err := unix.Open(real, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = copytree.Give(fd, id.UID, id.GID)
	}
	if err != nil {
		return fmt.Errorf("give %s to the container's user %d:%d (U): %w", source, id.UID, id.GID, err)
	}
	return nil
}

// user finds out who the container's user is, by its files, as its start does.
func (o *Owners) user() (*user.ExecUser, error) {
	root, err := o.Root()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var files [2]io.Reader
	for i, name := range []string{"etc/passwd", "etc/group"} {
		f, err := openInside(root, name)
		if err != nil {
			return nil, fmt.Errorf("%s of the container: %w", name, err)
		}
		if f != nil {
			defer f.Close()
			files[i] = io.LimitReader(f, 16<<20)
		}
	}
	who, err := user.GetExecUser(o.User, &user.ExecUser{Home: "/"}, files[0], files[1])
	if err != nil {
		return nil, invalid("%v", err)
	}
	return who, nil
}

// openInside opens a file inside, through no link that leads outside; nil: there is none.
func openInside(root *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), name, &how)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, errors.New("it is not a file"))
	}
	return f, nil
}
