package cgroup

// Resources are limits; a zero value means no limit of its own.
type Resources struct {
	Memory            int64 // bytes
	MemorySwap        int64 // bytes, memory plus swap; -1 unlimited swap; 0 is twice Memory, as Docker's default
	MemoryReservation int64 // bytes
	CPUQuota          int64 // µs in each period
	CPUPeriod         uint64
	CPUShares         uint64
	CpusetCpus        string
	CpusetMems        string
	PidsLimit         int64 // -1 or 0: unlimited

	Swappiness     *int64 // 0 to 100, v1 only; nil: inherited
	OOMKillDisable bool   // v1 only: out of memory, processes wait
	RTPeriod       uint64 // µs, v1 only
	RTRuntime      int64  // µs in each period, v1 only
	IO             *IO    // nil: no limit of its own
	HugePages      *HugePages
}

// Empty says that nothing is limited.
func (r Resources) Empty() bool { return r == (Resources{}) }

// IO limits block devices. A zero weight and an absent list mean no limit.
type IO struct {
	Weight                                 uint16 // 10 to 1000
	WeightDevice                           []DeviceLimit
	ReadBps, WriteBps, ReadIOps, WriteIOps []DeviceLimit // of bytes or operations a second; 0 lifts a limit
}

// DeviceLimit is a value for one block device.
type DeviceLimit struct {
	Major, Minor uint32
	Value        uint64
}

// DeviceRule allows access (r, w, m) to a device. Major and Minor of -1 mean all.
type DeviceRule struct {
	Type         string // "c", "b", "a"
	Major, Minor int64
	Access       string
}

// Devices says what a container may do with devices. The default rules always
// hold beside Rules.
type Devices struct {
	All   bool // --privileged: every device that the engine itself may use
	Rules []DeviceRule
}
