// Package plan is what the keeper tells init and what init answers.
//
// Both sides are built together (init is embedded in the keeper), so the
// encoding has no versions. It links neither fmt nor encoding/json: init's
// start is on the path of every container.
//
//	keeper                                    init
//	  Begin + descriptors, Plan.Stock     ->    (to a spare only)
//	                                      <-    Built
//	  one or more Begin + descriptors     ->    (the first descriptor is a memfd with the Plan)
//	                                      <-    NeedCgroup, when the cgroup must be entered by now
//	  Go                                  ->
//	                                      <-    Stands (with Hooks)
//	  Go                                  ->
//	                                      <-    Console + the terminal's master
//	                                      <-    Ready (start) or Child + pid (join)
//	  Go (start only)                     ->
//	                                      <-    Failed + errno + Error, or end of file: the program runs, or waits for the Gate
package plan

import "path"

// Message types, the first byte of each packet.
const (
	Begin      = 'B' // then the count of descriptors in all, uint16
	NeedCgroup = 'N'
	Go         = 'G'
	Console    = 'C'
	Ready      = 'R'
	Child      = 'P' // then the pid, uint32
	Built      = 'S' // the stock is
	Stands     = 'H' // the root file system does: the runtime's hooks are due
	Failed     = 'F' // then an errno, uint32, and an encoded Error
)

// DescriptorsEach is how many descriptors one packet carries at most (the
// kernel's SCM_MAX_FD is 253).
const DescriptorsEach = 200

// NoFD stands for an absent descriptor.
const NoFD = -1

// Plan is one start or join. Fields of descriptors are indexes into the
// descriptors that came along.
type Plan struct {
	Join bool
	// Stock is a plan only of what a spare builds while it waits; Stocked says
	// that the box uses it.
	Stock, Stocked bool
	ID             string

	Hostname   string
	Domainname string
	FileLabel  string // SELinux label of the file systems that init makes, or ""

	Root         int    // detached mount; of a join: a directory to make the root, or NoFD
	RootAt       string // where it is mounted, in a mount namespace that is not the box's own or that hooks look at
	RootHow      uint64 // MS_*: its propagation once all is mounted, or 0
	ReadonlyRoot bool
	Mounts       []Mount
	Ordered      bool // mountinfo lists the mounts in this order
	Devices      []Device
	Sysctl       []Pair
	Masked       []string
	Readonly     []string
	Null         int // detached bind of the host's verified /dev/null

	// User says that init was born in a user namespace; UserFD is, of a join, the
	// one (or a pidfd in it) to enter last; the maps are its.
	User       bool
	UserFD     int
	UIDs, GIDs []IDMap

	Enter         []Entry // namespaces to join
	UnshareCgroup bool
	CgroupV2      bool
	CgroupDir     int // v2 and join: the directory to clone into

	Hooks Hooks

	// Gate is a FIFO (O_PATH) that must be read before the program runs, or NoFD.
	Gate int

	Stdio [3]int
	Tiny  int // memfd of hezi-tiny, or NoFD

	Process Process
}

// Hooks are programs that run while the box is made.
type Hooks struct {
	// State is the JSON text of the OCI state up to the pid and the status; "": there
	// are no hooks.
	State         string
	Create, Start []Hook
	// Leave says that init is in a mount namespace of its own with the host's
	// mounts, which it leaves after the hooks.
	Leave bool
}

// Hook is one program. Seconds is its timeout; 0: none.
type Hook struct {
	Path      string
	Args, Env []string
	Seconds   uint64
}

// IDMap has the fields of box.IDMap.
type IDMap struct{ Container, Host, Size uint32 }

// Pair is a key and its value.
type Pair struct{ Key, Value string }

// Entry is a namespace (or, with a pidfd, several) to enter by setns(2).
type Entry struct {
	FD    int
	Flags int
	Name  string
}

// Mount is one mount. FD is a detached tree for binds, else NoFD.
type Mount struct {
	Type        string
	Target      string
	FD          int
	File        bool       // a bind of something that is not a directory
	Subpath     string     // what of the tree is mounted: it cannot be cloned before it is attached
	Set         uint64     // MOUNT_ATTR_*
	Top         bool       // Set is not for the mounts below
	Attr        Attributes // bind: beside Set
	Recursive   bool
	Propagation uint64 // MS_*, or 0
	Below       bool   // Propagation is for the mounts below, too
	Data        string
	CopyUp      bool
	Give        []IDs       // whose all of it is after CopyUp: none or one
	Hierarchies []Hierarchy // cgroup on v1
}

// IDs has the fields of box.IDs.
type IDs struct{ UID, GID uint32 }

// Attributes has the fields of box.Attributes.
type Attributes struct{ Set, Clear, SetAll, ClearAll uint64 }

// InDev says whether m is one of the file systems that sit in /dev.
func InDev(m *Mount) bool {
	switch m.Type {
	case "tmpfs", "devpts", "mqueue":
	default:
		return false
	}
	dir, name := path.Split(path.Clean(m.Target))
	return dir == "/dev/" && name != ""
}

// Hierarchy is one cgroup v1 hierarchy: the box's own directory in it.
type Hierarchy struct {
	Name  string   // the directory under /sys/fs/cgroup
	Links []string // symbolic links to it, for controllers mounted together
	FD    int      // detached bind of the box's directory
}

// Device is a device node.
type Device struct {
	Path         string
	Mode         uint32 // type and permission bits
	Major, Minor uint32
	UID, GID     uint32
}

// Rlimit is a resource limit by number.
type Rlimit struct {
	Name       string
	Resource   int
	Soft, Hard uint64
}

// Caps are the five capability sets.
type Caps struct {
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
}

// Process is the program to run.
type Process struct {
	Args, Env        []string
	Cwd              string
	User             string
	AdditionalGroups []string
	Terminal         bool
	Height, Width    uint16
	Caps             Caps
	NoNewPrivileges  bool
	Seccomp          []byte
	SeccompFlags     uint32
	Rlimits          []Rlimit
	HasOOMScoreAdj   bool
	OOMScoreAdj      int
	AppArmor         string
	SELinux          string
	HasUmask         bool
	Umask            uint32
}

// Error has the fields of box.Error.
type Error struct {
	Step     string
	Subject  string
	Message  string
	Errno    int
	ExitCode int
}

func (e *Error) Error() string { return e.Message }
