package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func (d DeviceLimit) device() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// ioV1 writes the limits of block devices. Weights are the scheduler BFQ's
// since Linux 5.0, CFQ's before.
func (g *Group) ioV1(r *IO) error {
	if r == nil {
		return nil
	}
	dir := g.paths["blkio"]
	if dir == "" {
		return errors.New("limits of block devices cannot be set: the host has no blkio cgroup controller")
	}
	weight := "blkio.bfq.weight"
	if !exists(dir, weight) {
		weight = "blkio.weight"
	}
	if r.Weight != 0 {
		if err := g.write(dir, weight, strconv.Itoa(int(r.Weight))); err != nil {
			return lacking(err, "the weight of block devices", "the scheduler bfq")
		}
	}
	for _, d := range r.WeightDevice {
		if err := g.keyed(dir, weight+"_device", d.device(), strconv.FormatUint(d.Value, 10), "0"); err != nil {
			return lacking(err, "the weight of the device "+d.device(), "the scheduler bfq for it")
		}
	}
	for _, t := range []struct {
		file string
		list []DeviceLimit
	}{
		{"blkio.throttle.read_bps_device", r.ReadBps}, {"blkio.throttle.write_bps_device", r.WriteBps},
		{"blkio.throttle.read_iops_device", r.ReadIOps}, {"blkio.throttle.write_iops_device", r.WriteIOps},
	} {
		for _, d := range t.list {
			if err := g.keyed(dir, t.file, d.device(), strconv.FormatUint(d.Value, 10), "0"); err != nil {
				return throttleError(err, d)
			}
		}
	}
	return nil
}

// ioV2 is ioV1 for v2, where one line of io.max has all of a device.
func (g *Group) ioV2(dir string, r *IO) error {
	if r == nil {
		return nil
	}
	bfq := exists(dir, "io.bfq.weight")
	if r.Weight != 0 {
		name, value := "io.weight", "default "+strconv.FormatUint(ioWeight(uint64(r.Weight)), 10)
		if bfq {
			name, value = "io.bfq.weight", strconv.Itoa(int(r.Weight))
		}
		if err := g.write(dir, name, value); err != nil {
			return lacking(err, "the weight of block devices", "the io controller with the scheduler bfq or CONFIG_BLK_CGROUP_IOCOST")
		}
	}
	for _, d := range r.WeightDevice {
		name, value := "io.weight", ioWeight(d.Value)
		if bfq {
			name, value = "io.bfq.weight", d.Value
		}
		if err := g.keyed(dir, name, d.device(), strconv.FormatUint(value, 10), "default"); err != nil {
			return lacking(err, "the weight of the device "+d.device(), "the scheduler bfq for it, or CONFIG_BLK_CGROUP_IOCOST")
		}
	}
	for _, t := range []struct {
		key  string
		list []DeviceLimit
	}{{"rbps", r.ReadBps}, {"wbps", r.WriteBps}, {"riops", r.ReadIOps}, {"wiops", r.WriteIOps}} {
		for _, d := range t.list {
			if err := g.throttleV2(dir, d, t.key); err != nil {
				return throttleError(err, d)
			}
		}
	}
	return nil
}

// throttleV2 sets one key of a device's line in io.max.
func (g *Group) throttleV2(dir string, d DeviceLimit, key string) error {
	value, before := "max", "max"
	if d.Value != 0 {
		value = strconv.FormatUint(d.Value, 10)
	}
	if g.undo != nil {
		for f := range strings.FieldsSeq(lineOf(dir, "io.max", d.device())) {
			if k, v, ok := strings.Cut(f, "="); ok && k == key {
				before = v
			}
		}
	}
	return g.record(dir, "io.max", d.device()+" "+key+"="+value, d.device()+" "+key+"="+before)
}

// keyed writes a device's line. none is what the kernel takes for no line.
func (g *Group) keyed(dir, name, key, value, none string) error {
	before := none
	if g.undo != nil {
		if v := lineOf(dir, name, key); v != "" {
			before = v
		}
	}
	return g.record(dir, name, key+" "+value, key+" "+before)
}

// lineOf is what follows key on its line.
func lineOf(dir, name, key string) string {
	text, err := read(dir, name)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// ioWeight turns v1's weight (10 to 1000) into v2's (1 to 10000), as the OCI
// runtimes do.
func ioWeight(w uint64) uint64 {
	if w == 0 {
		return 0
	}
	return 1 + (w-10)*9999/990
}

// lacking says what the kernel would need.
func lacking(err error, what, needs string) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s cannot be set: it needs %s: %w", what, needs, err)
	}
	return err
}

// throttleError explains a refused limit of a device.
func throttleError(err error, d DeviceLimit) error {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("the device %s cannot be limited: it is no block device that the kernel knows (name the whole disk): %w", d.device(), err)
	case errors.Is(err, unix.EINVAL) && partition(d):
		return fmt.Errorf("the device %s cannot be limited: it is a partition; name the whole disk: %w", d.device(), err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the device %s cannot be limited: this kernel does not throttle block devices (CONFIG_BLK_DEV_THROTTLING): %w", d.device(), err)
	}
	return err
}

func partition(d DeviceLimit) bool {
	return exists(filepath.Join("/sys/dev/block", d.device()), "partition")
}
