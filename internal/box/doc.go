// Package box starts processes in boxes: containers as the kernel sees them.
// It turns a Spec into a running program (Start), adds programs to a box that
// runs (Exec), and knows nothing of images, networks or clients.
//
//	keeper: Runtime                          child: hezi-init (package initproc)
//	  cgroup, or a spare that waits in one
//	  every host path -> detached mounts
//	  clone into new namespaces         ->
//	  plan + descriptors (package plan) ->   root, mounts, pivot, user, tape
//	  limits that would hinder init     <-   Ready
//	  Go                                ->   execve: the socket ends, the box runs
//
// On failure nothing is left, and the error is an *Error with its step.
package box
