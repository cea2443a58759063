// Package runtimes runs boxes by other OCI runtimes (runc, crun, runsc and those
// that speak their command line) instead of by package box. What the box's own
// init does inside is done on the host before: the root file system and the less
// usual mounts are made there, users are resolved, new volumes are filled.
//
// For each container there is a folder below the exec root, as long as its run
// is not forgotten:
//
//	runtimes/ID/runtime.json   by which runtime it was started
//	runtimes/ID/config.json    the bundle: what the runtime was told
//	runtimes/ID/rootfs         where the root file system is mounted
//	runtimes/ID/mounts/N       mounts that the runtime binds into the container
//	runtimes/ID/lock           flock(2): exclusive for start and removal, shared for execs
//	runtimes/ID/VERB-*         files of one call: its log, its pid, its console's socket
//	runtimes/state/            the runtimes' own state (--root)
//
// A runtime ends once it has made a process, which is then nobody's in particular:
// it goes to the nearest subreaper, the keeper's holder. Until somebody has a
// pidfd of it, a process that has ended already must not be reaped, or neither
// its status nor its identity could be told. So create and exec run below a
// courier, a process of the keeper's program that is a subreaper itself: it opens
// the pidfd, hands it to the keeper and ends, and only then is the process the
// holder's, which remembers statuses. A courier whose keeper was killed meanwhile
// ends what was made.
package runtimes
