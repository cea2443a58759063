// Package initproc is hezi-init: the process that turns itself into a
// container's program. It runs on one locked thread, speaks package plan's
// protocol on descriptor 3 and resolves every path inside the new root from a
// descriptor of that root.
//
// Life of a start (this process is the program's future pid 1):
//
//	spare (empty tmpfs as root) -> plan -> namespaces -> root, mounts ->
//	pivot -> terminal, user, lookup -> Ready -> Go -> tape -> execve
//
// Life of a join (this process stays in the host's pid namespace, where no one
// inside can see it):
//
//	plan -> setns(all) -> terminal, user, lookup -> clone(CLONE_PARENT) ->
//	the child plays the tape -> execve; this process reports the pid and ends
//
// The tape is a list of system calls prepared beforehand: the child of a raw
// fork of a Go process must not allocate, lock or schedule.
package initproc
