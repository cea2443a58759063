package scope

import (
	"fmt"
	"math"
	"strconv"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets GenerateDeviceProps
	devices "github.com/opencontainers/cgroups/devices/config"
	units "github.com/opencontainers/cgroups/systemd"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// infinity is what D-Bus has for "no limit", and for "not set" of weights.
const infinity = uint64(math.MaxUint64)

func property(name string, value any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// fixed are the properties that a scope keeps.
func (d *Driver) fixed(r *Request) []systemd.Property {
	io := "IOAccounting"
	if !d.unified {
		io = "BlockIOAccounting"
	}
	list := []systemd.Property{
		systemd.PropDescription("container " + r.Name + d.mark()),
		systemd.PropSlice(r.Slice),
		property("PIDs", []uint32{uint32(r.PID)}),
		property("Delegate", true),
		// It outlives the engine's service, and at a shutdown it is ended after it.
		property("DefaultDependencies", false),
		property("MemoryAccounting", true), property("CPUAccounting", true), property(io, true), property("TasksAccounting", true),
	}
	if d.version >= 236 { // one that failed is forgotten, too
		list = append(list, property("CollectMode", "inactive-or-failed"))
	}
	if d.version >= 253 { // else a kill for lack of memory could stop the container
		list = append(list, property("OOMPolicy", "continue"))
	}
	return list
}

// limits are the properties of all limits but those of block devices, also of
// what is not set.
func (d *Driver) limits(r box.Resources) []systemd.Property {
	list := []systemd.Property{property("TasksMax", orInfinity(r.PidsLimit))}
	if d.unified {
		list = append(list,
			property("MemoryMax", orInfinity(r.Memory)), property("MemorySwapMax", uint64(r.SwapMax())), // -1 is infinity
			property("MemoryLow", uint64(max(r.MemoryReservation, 0))), property("CPUWeight", orUnset(r.CPUWeight())))
	} else {
		list = append(list, property("MemoryLimit", orInfinity(r.Memory)), property("CPUShares", orUnset(r.CPUShares)))
	}
	list = append(list, d.quota(r)...)
	if d.version >= 244 && d.unified { // on v1 systemd has no cpuset
		list = append(list, property("AllowedCPUs", bits(r.CpusetCpus)), property("AllowedMemoryNodes", bits(r.CpusetMems)))
	}
	return list
}

func orInfinity(n int64) uint64 {
	if n <= 0 {
		return infinity
	}
	return uint64(n)
}

func orUnset(n uint64) uint64 {
	if n == 0 {
		return infinity
	}
	return n
}

// bits are a set of processors or of memory nodes, as the engine has checked it.
func bits(set string) []byte {
	b, err := units.RangeToBits(set)
	if err != nil { // the empty set, which is all
		return []byte{}
	}
	return b
}

const (
	second        = 1_000_000 // µs
	percent       = second / 100
	defaultPeriod = 100_000 // µs
)

// Rounded has the quota of processors that systemd keeps: the next whole
// percent of one.
func Rounded(r box.Resources) box.Resources {
	if r.CPUQuota > 0 {
		r.CPUQuota = int64(perSecond(r) * period(r) / second)
	}
	return r
}

func period(r box.Resources) uint64 {
	if r.CPUPeriod == 0 {
		return defaultPeriod
	}
	return r.CPUPeriod
}

// perSecond is the quota in µs of each second, rounded.
func perSecond(r box.Resources) uint64 {
	step := period(r) * percent
	return (uint64(r.CPUQuota)*second + step - 1) / step * percent
}

func (d *Driver) quota(r box.Resources) (list []systemd.Property) {
	if d.version >= 242 {
		p := infinity // systemd's default
		if r.CPUPeriod != 0 {
			p = r.CPUPeriod
		}
		list = append(list, property("CPUQuotaPeriodUSec", p))
	}
	q := infinity
	if r.CPUQuota > 0 {
		q = perSecond(r)
	}
	return append(list, property("CPUQuotaPerSecUSec", q))
}

// deviceValue is systemd's (st).
type deviceValue struct {
	Path  string
	Value uint64
}

// io are the properties of all limits of block devices: a list is emptied before
// it is filled.
func (d *Driver) io(r *cgroup.IO) []systemd.Property {
	if r == nil {
		r = &cgroup.IO{}
	}
	weigh := func(w uint64) uint64 { return w }
	weight, weights := "BlockIOWeight", "BlockIODeviceWeight"
	reads, writes := "BlockIOReadBandwidth", "BlockIOWriteBandwidth"
	if d.unified {
		weigh, weight, weights = unifiedWeight, "IOWeight", "IODeviceWeight"
		reads, writes = "IOReadBandwidthMax", "IOWriteBandwidthMax"
	}
	list := []systemd.Property{property(weight, orUnset(weigh(uint64(r.Weight))))}
	each := func(name string, from []cgroup.DeviceLimit, value func(uint64) uint64) {
		to := []deviceValue{}
		for _, l := range from {
			if l.Value != 0 {
				to = append(to, deviceValue{fmt.Sprintf("/dev/block/%d:%d", l.Major, l.Minor), value(l.Value)})
			}
		}
		list = append(list, property(name, []deviceValue{}))
		if len(to) > 0 {
			list = append(list, property(name, to))
		}
	}
	as := func(v uint64) uint64 { return v }
	each(weights, r.WeightDevice, weigh)
	each(reads, r.ReadBps, as)
	each(writes, r.WriteBps, as)
	if d.unified { // v1's rates of operations have no property
		each("IOReadIOPSMax", r.ReadIOps, as)
		each("IOWriteIOPSMax", r.WriteIOps, as)
	}
	return list
}

// unifiedWeight is the IOWeight of which systemd makes the io.bfq.weight that the
// engine writes: 1 to 1000 for 1 to 10000, with 100 for 100 (systemd's BFQ_WEIGHT).
// Where the kernel has no bfq, that is near enough to io.weight.
func unifiedWeight(w uint64) uint64 {
	if w <= 100 {
		return w
	}
	return 100 + (w-100)*11
}

// devices are the properties of the device rules; on v2 none.
func (d *Driver) devices(dev cgroup.Devices) ([]systemd.Property, error) {
	if d.unified {
		return nil, nil
	}
	rules := append(cgroup.DefaultRules(), dev.Rules...)
	if dev.All {
		rules = []cgroup.DeviceRule{{Type: "a", Major: -1, Minor: -1, Access: "rwm"}}
	}
	r := &cgroups.Resources{}
	for _, x := range rules {
		kinds := x.Type
		if kinds == "a" && !dev.All {
			kinds = "bc"
		}
		for _, kind := range kinds {
			r.Devices = append(r.Devices, &devices.Rule{Type: devices.Type(kind), Major: x.Major, Minor: x.Minor, Permissions: devices.Permissions(x.Access), Allow: true})
		}
	}
	list, err := units.GenerateDeviceProps(r, d.version)
	if err != nil {
		return nil, fmt.Errorf("the device rules of %s in systemd's words: %w", strconv.Quote(d.engine), err)
	}
	return list, nil
}
