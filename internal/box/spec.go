package box

import (
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box/cgroup"
)

// Spec is everything that one box needs: the launch spec that engine/spec
// builds from a request and an image, that the keeper stores, and that Start
// turns into a process. All host paths are absolute and are opened by the
// keeper in the host's mount namespace; paths with "inside" in their comment
// are resolved in the container's root, never on the host.
type Spec struct {
	ID         string // 64 hex digits; names the cgroup leaf
	Hostname   string // "" keeps the kernel's default in a new UTS namespace
	Domainname string
	Root       Root
	Mounts     []Mount // in order; parents before children
	Namespaces Namespaces
	// Users are the ids of a user namespace of the box's own; nil: the host's
	// ids. All other new namespaces then belong to it, and its root file system
	// is mapped, so that the owners of files on disk are ids inside.
	Users   *Users `json:",omitempty"`
	Cgroup  Cgroup
	Process Process
	Devices []Device          // created in /dev beside the default ones
	Sysctl  map[string]string // written through init's private procfs
	// FileLabel is the SELinux label of the file systems that are made for the box in
	// memory; "": what the policy says. An overlay has one of its own.
	FileLabel string `json:",omitempty"`

	MaskedPaths   []string // inside
	ReadonlyPaths []string // inside

	// Init puts hezi's tiny static init before the program as process 1.
	Init bool

	// Hooks are run while the box is made; nil: none.
	Hooks *Hooks `json:",omitempty"`
}

// Hooks are programs that run while a box is made, as the OCI runtime
// specification has them (config.md, "POSIX-platform Hooks"). One that fails, or
// outlasts its timeout, ends the start. A box with hooks is made without what was
// prepared for any, and while init builds it the host's mounts are in sight.
type Hooks struct {
	// Root is a directory of the host at which the box's root file system is
	// mounted in the box's mount namespace until that is all that there is. The
	// bundle's config.json has it.
	Root string
	// State is what they are told, but for the pid and the status.
	State specs.State
	// In the host's namespaces, when the root file system stands.
	Prestart, CreateRuntime []specs.Hook
	// In the box's namespaces: programs of the host just after those, as init, and
	// programs of the box just before its own, as the box's user with its privileges.
	CreateContainer, StartContainer []specs.Hook
}

// Root is the container's root file system. Exactly one of Overlay and Path is set.
type Root struct {
	Overlay  *Overlay
	Path     string // host path of a ready directory tree
	ReadOnly bool
	// AsIs, of a Path, takes a bundle as the OCI runtime specification does: the owners
	// of files are the ids on disk, also for a box with users of its own, and
	// mountinfo lists the mounts in their order.
	AsIs bool `json:",omitempty"`
	// Propagation of a Path, as a Mount has it, and "unbindable". What the box
	// mounts on a shared root reaches the namespaces that are made inside, never
	// the host's.
	Propagation string `json:",omitempty"`
}

// Overlay is an overlay mount made without ever being attached on the host.
type Overlay struct {
	Lower    []string // host paths of read-only layers, topmost first
	Upper    string   // host path; "" with Work "" makes the overlay read-only
	Work     string
	Volatile bool   // no sync on unmount: for containers that are removed at exit
	Label    string `json:",omitempty"` // SELinux label of all files; "": those that they have
}

// Mount types.
const (
	MountBind   = "bind"
	MountTmpfs  = "tmpfs"
	MountProc   = "proc"
	MountSysfs  = "sysfs"
	MountDevpts = "devpts"
	MountMqueue = "mqueue"
	MountCgroup = "cgroup" // v1, v2 or hybrid as the host has it
	MountImage  = "image"  // the layers of Layers, read-only
)

// Mount is one mount of the box, in mount(8)'s terms.
type Mount struct {
	Type        string
	Source      string // bind: host path; image: its name
	Subpath     string // bind and image: what below Source is mounted; no link leads out of Source
	Target      string // inside
	Layers      *Overlay
	ReadOnly    bool
	ReadOnlyTop bool // ReadOnly is not for the mounts below
	NoSuid      bool
	NoDev       bool
	NoExec      bool
	Recursive   bool   // bind: with submounts (rbind)
	Propagation string // "", private, rprivate, slave, rslave, shared, rshared, unbindable, runbindable
	// Attr is set and cleared beside the flags above.
	Attr Attributes `json:",omitzero"`
	Data string     // file system options: "size=64m,mode=1777"
	// CopyUp fills an empty named volume (bind) with what the image has at Target.
	CopyUp bool
	// Give is whose all of it is after a CopyUp, by ids of the box; nil: it is as it was.
	Give *IDs `json:",omitempty"`
	// Owners maps the owners of a bind's files: ids on disk are Container, those
	// that the kernel takes them for are Host. nil: they are as they are.
	Owners *Users `json:",omitempty"`
	// Of says whose file system Source is in; nil: the host's.
	Of *Owner `json:",omitempty"`
}

// IDs are a user and a group.
type IDs struct{ UID, GID uint32 }

// Attributes are MOUNT_ATTR_* (mount_setattr(2)) of a mount, and of it and all below it.
type Attributes struct {
	Set, Clear       uint64
	SetAll, ClearAll uint64
}

// Owner is a running container that something is taken from.
type Owner struct {
	ID string // for whoever holds containers to find Process by
	// Process is a pidfd of its first process, which is proof against a number
	// that is used again. It is the caller's.
	Process *os.File `json:"-"`
}

// NamespaceMode says how a box comes by one namespace.
type NamespaceMode string

const (
	NamespaceNew  NamespaceMode = ""     // a new one
	NamespaceHost NamespaceMode = "host" // the host's
	NamespaceJoin NamespaceMode = "join" // the one at Path, or Of's
)

// Namespace is one namespace of a box. Path is a file such as
// /proc/PID/ns/net or a bind-mounted handle and is opened by the keeper.
type Namespace struct {
	Mode NamespaceMode
	Path string `json:",omitempty"`
	Of   *Owner `json:",omitempty"`
}

// Namespaces of a box.
type Namespaces struct {
	PID, IPC, UTS, Net, Cgroup Namespace
	// Mount is new for all but the boxes of an OCI bundle that asks for another. In
	// another's, the root file system is mounted on Root.Path, where it stays, and is
	// the box's by chroot(2): what has CAP_SYS_CHROOT inside can leave it.
	Mount Namespace `json:",omitzero"`
	// User is joined or, with Spec.Users, new: those are its ids either way.
	User Namespace
}

// Cgroup places and limits the box.
type Cgroup struct {
	// Parent is relative to the root of each hierarchy, such as
	// "/hezi-1a2b3c4d"; the leaf is Parent + "/" + Spec.ID.
	Parent    string
	Resources Resources
	// Foreign: Parent is one that the user named (--cgroup-parent). The leaf is
	// directly below it, and nothing else of the engine's is.
	Foreign bool
	// Scope, with Foreign, names the leaf in the place of Spec.ID: a scope of
	// systemd's that is there, with the prepared init of the box in it.
	Scope string `json:",omitempty"`
	// AllDevices allows every device (--privileged); otherwise the default
	// rules and DeviceRules apply.
	AllDevices  bool
	DeviceRules []DeviceRule
}

// Resources are limits; a zero value means no limit of its own.
type Resources = cgroup.Resources

// DeviceRule allows access to a device.
type DeviceRule = cgroup.DeviceRule

// Device is a device node made in the box.
type Device struct {
	Path         string // inside
	Type         string // "c", "b", or "p" for a FIFO
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// Process is the program, of a start or of an exec.
type Process struct {
	Args []string // Args[0] is looked up in PATH of Env inside the root, as execvp(3) does
	Env  []string // HOME is added from the passwd file inside when it is absent
	Cwd  string   // inside; created when absent at start, as Docker does
	// User is what --user takes: name, uid, name:group, uid:gid ... It is
	// resolved against /etc/passwd and /etc/group inside the root. "" is root.
	User             string
	AdditionalGroups []string // names or numbers, resolved inside

	Terminal        bool
	ConsoleHeight   uint16 // character cells; 0: 80x24 is not forced
	ConsoleWidth    uint16
	OpenStdin       bool // a pipe is kept for standard input; otherwise /dev/null
	AttachStdout    bool // exec only: false sends it to /dev/null
	AttachStderr    bool
	Capabilities    Capabilities
	NoNewPrivileges bool
	Seccomp         []byte // compiled struct sock_filter array in host byte order; nil: no filter
	SeccompFlags    uint32 // SECCOMP_FILTER_FLAG_*
	Rlimits         []Rlimit
	OOMScoreAdj     *int // nil: inherited
	AppArmorProfile string
	SELinuxLabel    string
	Umask           *uint32

	// OwnRoot, of an exec, enters the root of the box's first process: the box has
	// no mount namespace of its own.
	OwnRoot bool `json:",omitempty"`

	// Group, of an exec, names a cgroup that is made for it alone inside the
	// container's (cgroup.ExecName); "": it is in the container's. Whoever asked
	// for it removes it (cgroup.RemoveInner).
	Group string

	// Rare, of an exec, says that none is expected soon after it: no standby waits
	// for one.
	Rare bool
}

// Capabilities as names such as "CAP_CHOWN".
type Capabilities struct {
	Bounding, Effective, Permitted, Inheritable, Ambient []string
}

// Rlimit is one resource limit (getrlimit(2)); Type is such as "RLIMIT_NOFILE".
type Rlimit struct {
	Type       string
	Soft, Hard uint64
}

// Exit is how a process of a box ended.
type Exit struct {
	Code      int // 0-255; 128+n when signal n ended it; 255 with Reason when it cannot be known
	Signal    int // the signal that ended it, or 0
	OOMKilled bool
	At        time.Time
	Reason    string // why Code could not be known, "" otherwise
}

// Step names of the start path, as they reach the client in an Error.
const (
	StepCgroup    = "cgroup"
	StepOwners    = "owners of files"
	StepNamespace = "namespaces"
	StepPrepared  = "prepared namespaces" // of Runtime.Prepare, lost meanwhile
	StepRoot      = "root file system"
	StepMount     = "mount"
	StepDevice    = "device"
	StepPivot     = "pivot_root"
	StepHostname  = "hostname"
	StepSysctl    = "sysctl"
	StepRlimit    = "resource limit"
	StepUser      = "user"
	StepCwd       = "working directory"
	StepTerminal  = "terminal"
	StepCaps      = "capabilities"
	StepSeccomp   = "seccomp"
	StepAppArmor  = "AppArmor profile"
	StepExec      = "exec"
	StepHook      = "hook"
)

// Error is a step of a start or exec that failed. ExitCode is what the client
// exits with: 127 when the program is missing, 126 when it cannot be executed
// (a directory, no permission, a wrong architecture), else 125... as
// docker-run(1) has it. It travels as JSON from init through the keeper.
type Error struct {
	Step     string
	Subject  string // the path, name or value that the step was about
	Message  string // a sentence for a person, with Docker's wording where scripts match it
	Errno    int
	ExitCode int
}

func (e *Error) Error() string { return e.Message }
