package dockerroot

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// NoContainerd is named as containerd's root where the images are not in one.
const NoContainerd = "none"

// candidate is a store that a data root may have its images in. A Docker that was
// switched to another one keeps the old.
type candidate struct {
	store      store // nil if it cannot be opened
	place      string
	driver     string // of a store of Docker's own
	containerd bool
	busy       bool // a containerd runs on it
	free       bool // which has nothing of Docker's
	err        error
	warnings   []string
}

// filled says whether it has images of Docker's, or may have.
func (c candidate) filled() bool {
	return c.busy && !c.free || !c.busy && c.err == nil && len(c.store.entries()) > 0
}

// made says whether a container was made from its images.
func (c candidate) made(k *keptContainer) bool {
	ofContainerd := k.ImageManifest != nil || slices.Contains([]string{"overlayfs", "native", "stargz", "nydus"}, k.Driver)
	return ofContainerd == c.containerd && (c.containerd || c.driver == k.Driver)
}

// chooseStore finds the one store that Docker had its images in when it ran last.
func (r *Root) chooseStore(containerd string, youngest *keptContainer) error {
	var all []candidate
	var err error
	if containerd == "" || containerd == NoContainerd {
		if all, err = r.graphs(); err != nil {
			return refused(filepath.Join(r.path, "image"), err)
		}
	}
	if containerd != NoContainerd {
		all = append(all, r.contents(containerd)...)
	}
	chosen := -1
	defer func() {
		for i, c := range all {
			if c.store != nil && i != chosen {
				c.store.close()
			}
		}
	}()
	i, err := r.choose(all, containerd, youngest)
	if err != nil {
		return err
	}
	if c := all[i]; c.busy {
		return fmt.Errorf("the images of Docker are in %s, on which a containerd runs: stop it, too (systemctl stop containerd)", c.place)
	} else if c.err != nil {
		return refused(c.place, fmt.Errorf("the images: %w", c.err))
	} else {
		chosen, r.store, r.warnings = i, c.store, append(r.warnings, c.warnings...)
	}
	for at, c := range all {
		if at != i && c.err != nil {
			r.warnings = append(r.warnings, fmt.Sprintf("the images in %s cannot be read, and those in %s are taken: %v", c.place, all[i].place, c.err))
		}
	}
	return nil
}

// choose is the place of the store in all.
func (r *Root) choose(all []candidate, containerd string, youngest *keptContainer) (int, error) {
	indices := func(is func(candidate) bool) (out []int) {
		for i, c := range all {
			if is(c) {
				out = append(out, i)
			}
		}
		return out
	}
	filled := indices(candidate.filled)
	if youngest != nil {
		made := indices(func(c candidate) bool { return c.made(youngest) })
		of := slices.DeleteFunc(slices.Clone(made), func(i int) bool { return !slices.Contains(filled, i) })
		switch {
		case len(of) > 0:
			filled = of
		case len(made) > 0:
			return made[0], nil
		case youngest.ImageManifest != nil:
			return 0, r.noContainerd(containerd)
		}
	}
	switch {
	case len(filled) > 1:
		var places []string
		for _, i := range filled {
			places = append(places, all[i].place)
		}
		return 0, fmt.Errorf("there are images of Docker's in %s, and no container tells which of them Docker used last: name containerd's root with --containerd-root, or say --containerd-root %s if it is none of containerd's", strings.Join(places, " and in "), NoContainerd)
	case len(filled) == 1:
		return filled[0], nil
	case len(all) == 0:
		return 0, r.noContainerd(containerd)
	}
	if broken := indices(func(c candidate) bool { return c.err != nil }); len(broken) > 0 {
		return broken[0], nil
	}
	return 0, nil
}

func (r *Root) noContainerd(containerd string) error {
	places := filepath.Join(r.path, containerdDaemon) + " or " + filepath.Join(filepath.Dir(r.path), "containerd")
	if containerd != "" {
		places = containerd
	}
	return fmt.Errorf("the images of Docker are not in %s, and no root of containerd's is at %s: name it with --containerd-root", r.path, places)
}
