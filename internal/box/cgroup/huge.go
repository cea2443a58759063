package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HugePages limits pages of the pool of huge pages (hugetlbfs, MAP_HUGETLB), for
// each of their sizes.
type HugePages struct{ Limits []HugePage }

// HugePage is the limit for one size.
type HugePage struct {
	Size  string // as the kernel writes it: 2MB, 1GB
	Bytes int64  // -1: no limit
}

const hugetlb = "hugetlb"

// PageName is the kernel's name of a size in bytes (hugetlb_cgroup.c, mem_fmt).
func PageName(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return decimal(bytes>>30) + "GB"
	case bytes >= 1<<20:
		return decimal(bytes>>20) + "MB"
	}
	return decimal(bytes>>10) + "KB"
}

// pageSizes are the sizes of this host's huge pages, by the kernel's names.
func pageSizes(dir string) []string {
	pools, err := filepath.Glob(filepath.Join(dir, "hugepages-*kB"))
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range pools {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "hugepages-"), "kB"), 10, 64)
		if err == nil && kib < math.MaxInt64>>10 {
			out = append(out, PageName(kib<<10))
		}
	}
	return out
}

func (g *Group) hugeV1(h *HugePages) error {
	if h == nil || len(h.Limits) == 0 {
		return nil
	}
	dir := g.paths[hugetlb]
	if dir == "" {
		return errors.New("limits of huge pages cannot be set: the host has no hugetlb cgroup controller on cgroup v1")
	}
	for _, p := range h.Limits {
		for _, name := range []string{"limit_in_bytes", "rsvd.limit_in_bytes"} {
			if err := g.huge(dir, p, name, decimal(p.Bytes)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Group) hugeV2(dir string, h *HugePages) error {
	if h == nil || len(h.Limits) == 0 {
		return nil
	}
	if !exists(dir, "hugetlb."+h.Limits[0].Size+".max") { // systemd, which has made the group, does not know the controller
		delegateHuge(filepath.Dir(dir))
	}
	for _, p := range h.Limits {
		value := "max"
		if p.Bytes >= 0 {
			value = decimal(p.Bytes)
		}
		for _, name := range []string{"max", "rsvd.max"} {
			if err := g.huge(dir, p, name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// huge writes what may be used, and what may be reserved, by which a mapping is
// refused before a page of it is touched (Linux 5.7).
func (g *Group) huge(dir string, p HugePage, name, value string) error {
	err := g.write(dir, hugetlb+"."+p.Size+"."+name, value)
	if errors.Is(err, os.ErrNotExist) {
		if strings.HasPrefix(name, "rsvd.") {
			return nil
		}
		return fmt.Errorf("huge pages of %s cannot be limited: the kernel has none of this size, or the hugetlb cgroup controller is missing or not delegated to the engine: %w", p.Size, unix.ENOENT)
	}
	return err
}

// delegateHuge has the controller in dir and all groups above, as far as it can;
// what it could not is seen by the file that is not there.
func delegateHuge(dir string) {
	if !exists(dir, "cgroup.controllers") {
		return
	}
	if have, err := read(dir, "cgroup.controllers"); err != nil || !word(have, hugetlb) {
		delegateHuge(filepath.Dir(dir))
	}
	_ = write(dir, "cgroup.subtree_control", "+"+hugetlb)
}
