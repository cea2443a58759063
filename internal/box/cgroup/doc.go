// Package cgroup places and limits containers: it makes one cgroup for each,
// in every hierarchy in use, on cgroup v1, v2 and hybrid hosts.
//
// # Layout
//
// Below the engine's parent (such as /hezi-1a2b3c4d) there are two sub-parents,
// so that default containers pay nothing for their device rules:
//
//	PARENT/default/LEAF   the default device rules, written (v1) or attached
//	                      as a BPF program (v2) once, to PARENT/default; v1
//	                      leaves inherit them, v2 runs an ancestor's program
//	PARENT/devices/LEAF   --privileged, or more devices than the defaults: rules
//	                      are the leaf's own, since a child can only narrow
//	                      what its parent allows
//
// On v1 the leaf exists in each hierarchy, named ones too; a hybrid host
// (controllers on v1, an empty v2 beside) counts as v1. On v2 the controllers
// are enabled from the root down to the sub-parent.
//
// Under the systemd driver the leaf is a scope that systemd has made (Enter), and
// the device rules are its own.
//
// # Order
//
// Create writes the limits that init can live with. ApplyLate writes the
// others (pids, cpu quota, memory below 32 MiB), once init reports that it is
// ready: all before user code runs.
//
// # Cost
//
// On v1, moving a process waits for an RCU grace period: the kernel takes
// cgroup_threadgroup_rwsem for writing. Writes that follow at once find it
// taken, so Add opens all files first and then writes them in a row: one wait
// and not one for each hierarchy. Measured by TestAddCost (p50 / p90, nine
// hierarchies, 2 processors, Linux 6.18):
//
//	Create, nine directories, no limits          0.5 /   0.6 ms
//	Add                                         11.0 /  16.1 ms
//	the same writes with pauses between         74.0 / 105.4 ms
//	a program started by a helper that is
//	inside already, vfork and exec included      0.3 /   0.9 ms
//
// So a start that must not wait takes a process that entered before, and
// Renames the group. On v2 nothing waits: the process is born inside
// (CLONE_INTO_CGROUP with Group.FD).
//
// # Why not a library
//
// github.com/opencontainers/cgroups links systemd's D-Bus client, logrus and
// an eBPF assembler through its devices package, opens and writes each
// hierarchy in turn when it adds a process, and writes device rules to every
// leaf. The files it writes, their order, and the formulas are followed here.
package cgroup
