// Package oci is the command line of an OCI runtime on top of the box: runc's
// verbs and options, for dockerd, containerd, Podman and whoever else starts
// containers by one (runtime-spec, runtime.md).
//
// A container is a folder below the state's root:
//
//	ROOT/ID/state.json   what was made, for the next call
//	ROOT/ID/start        a FIFO that init waits at until `start` reads it
//
// No process of ours stays: the container's first process becomes a child of
// whoever called `create`. What a bundle asks for and the box does not have is
// refused with its name; nothing is ignored.
package oci
