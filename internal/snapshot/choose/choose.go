// Package choose finds out which storage driver a data root can have, by trying:
// each driver is used as containers will use it, in a folder that goes again. What
// was chosen is kept in the data root, with the reason.
//
//	DATAROOT/storage-driver.json   {"driver": "overlay2", "reason": "…"}
package choose

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/snapshot/plain"
)

// Choice is a driver and why it is used.
type Choice struct {
	Driver string `json:"driver"`
	Reason string `json:"reason"`
	// Before is the driver that was used until now, if that was another; it is not kept.
	Before string `json:"-"`
	kept   bool   // as it is
}

// lesser begins the reason of a driver that was not the first choice.
const lesser = "it works here, and better ones do not: "

// Warning says that a better driver did not work, and what mends it; "" where none failed.
func (c Choice) Warning() string {
	why, ok := strings.CutPrefix(c.Reason, lesser)
	if !ok {
		return ""
	}
	return fmt.Sprintf("the storage driver is %s, which is slower, since at the first start better ones did not work: %s; when that is mended, write \"storage-driver\": \"overlay2\" into daemon.json and restart hezid (images stay; containers of now can be used with %s alone)", c.Driver, why, c.Driver)
}

// Drivers are all that there are, those that are tried without being asked for
// first, the best first.
func Drivers() []string { return []string{"overlay2", "fuse-overlayfs", "vfs", "btrfs", "erofs"} }

// tried is how many of Drivers are tried.
const tried = 3

// FileName is where a choice is kept, in the data root.
const FileName = "storage-driver.json"

// Name is a driver's name as it is kept: overlay and overlayfs are overlay2.
func Name(s string) (string, error) {
	switch s {
	case "overlay", "overlayfs":
		return "overlay2", nil
	case "":
		return "", nil
	}
	if slices.Contains(Drivers(), s) {
		return s, nil
	}
	return "", fmt.Errorf("storage-driver %q: there is no such driver: overlay2, fuse-overlayfs, btrfs, erofs and vfs are possible, and without the option the best that works is taken", s)
}

// For chooses for a data root. asked is from the configuration; "": what was used
// before, or at the first start the best that works. Keep stores it.
func For(root, asked string) (Choice, error) {
	asked, err := Name(asked)
	if err != nil {
		return Choice{}, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return Choice{}, explainRoot(root, err)
	}
	before, err := read(root)
	if err != nil && asked == "" {
		return Choice{}, err
	}
	c := before
	switch {
	case asked != "":
		c = Choice{Driver: asked, Reason: "it is set by storage-driver"}
		c.kept = before.kept && c.Driver == before.Driver && c.Reason == before.Reason
	case before.Driver == "":
		return best(root)
	}
	err = Try(c.Driver, root)
	if c.Driver == before.Driver && full(err) { // it worked before, and clean-up needs the engine
		return before, nil
	}
	if err != nil {
		if asked == "" {
			err = fmt.Errorf("%w (the images and containers in %s were made with this driver: to use another one, set storage-driver)", err, root)
		}
		return Choice{}, fmt.Errorf("the storage driver %s: %w", c.Driver, err)
	}
	if before.Driver != c.Driver {
		c.Before = before.Driver
	}
	return c, nil
}

// best tries the drivers.
func best(root string) (Choice, error) {
	var failed []string
	for _, d := range Drivers()[:tried] {
		err := Try(d, root)
		if err == nil {
			reason := "it was tried at the first start, and all that it needs works here"
			if len(failed) > 0 {
				reason = lesser + strings.Join(failed, "; ")
			}
			return Choice{Driver: d, Reason: reason}, nil
		}
		if noRoom(err) {
			return Choice{}, err
		}
		failed = append(failed, d+": "+err.Error())
	}
	return Choice{}, errdefs.ErrFailedPrecondition.WithMessage("no storage driver works in " + root + ": " + strings.Join(failed, "; "))
}

// read is what was chosen before. A data root without the file, but with layers, is
// of a version that had one driver.
func read(root string) (c Choice, err error) {
	b, err := os.ReadFile(filepath.Join(root, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(root, "layers", "snapshots")); err == nil {
			return Choice{Driver: "overlay2", Reason: "it was used before"}, nil
		}
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil {
		_, err = Name(c.Driver)
		c.kept = true
	}
	if err != nil {
		return Choice{}, fmt.Errorf("%s says which storage driver is used: %w: set storage-driver, and it is written anew", filepath.Join(root, FileName), err)
	}
	return c, nil
}

// Keep stores the choice in a data root that is the caller's alone by now: another
// engine that is started in it by mistake chooses nothing for this one. It removes
// what trials left that were killed.
func (c Choice) Keep(root string) error {
	left, err := filepath.Glob(filepath.Join(root, trialPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := forget(dir); err != nil {
			return fmt.Errorf("remove what a trial of a storage driver left: %w", err)
		}
	}
	if c.kept {
		return nil
	}
	if err := c.write(root); !full(err) {
		return err
	}
	return nil // clean-up needs the engine; the next start stores it
}

// forget removes a trial's folder, with what it may have left mounted.
func forget(dir string) error {
	for _, at := range []string{"merged", "layer/fs"} {
		err := unix.Unmount(filepath.Join(dir, at), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return err
		}
	}
	if err := (plain.Subvolumes{}).Delete(filepath.Join(dir, "one")); err != nil {
		return err
	}
	if err := (plain.Subvolumes{}).Delete(filepath.Join(dir, "two")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (c Choice) write(root string) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := filepath.Join(root, FileName)
	f, err := os.Create(path + ".new")
	if err != nil {
		return explainRoot(root, err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(explainRoot(root, err), os.Remove(path+".new"))
	}
	return nil
}
