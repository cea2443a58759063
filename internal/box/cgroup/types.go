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

// Stats are a container's counters. What the host does not count is 0.
type Stats struct {
	MemoryCurrent uint64 // bytes, page cache included
	MemoryLimit   uint64 // bytes; 0: none
	CPUUsage      uint64 // ns
	PidsCurrent   uint64
}
