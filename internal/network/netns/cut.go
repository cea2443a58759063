package netns

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cut takes an interface down by the host's end, which the container cannot set up again,
// or sets that up; without one (outside is "") by the one called inside in the namespace at path.
func Cut(path, outside, inside string, down bool) error {
	if outside == "" {
		return Do(path, func() error { return cut(inside, down) })
	}
	return cut(outside, down)
}

func cut(name string, down bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("the interface %s: %w", name, err)
	}
	up := link.Attrs().RawFlags&unix.IFF_UP != 0
	switch {
	case up && down:
		err = netlink.LinkSetDown(link)
	case !up && !down:
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("the interface %s: %w", name, err)
	}
	return nil
}
