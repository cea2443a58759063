// Package seccomp compiles Docker's seccomp profiles (moby/profiles) to BPF
// programs for the kernel, in Go alone. A profile is first narrowed to a
// machine (includes and excludes by capability, architecture and kernel), then
// compiled:
//
//	load the architecture; unknown: kill
//	each ABI (amd64, i386, x32; arm64, arm)
//	  a binary search over the ranges of numbers that share an outcome
//	    a constant outcome
//	    or tests of arguments, rule after rule, the first that holds wins
//
// The rules follow libseccomp, so that a profile means here what it means
// under runc: an unconditional rule beats those with arguments; a rule that
// tests one argument twice is met by either test; 32-bit ABIs see the lower
// halves of arguments; on i386 socket calls and System V IPC are also matched
// where socketcall(2) and ipc(2) carry them; calls above the newest one that
// the profile names get ENOSYS (runc's patchbpf), so that a C library tries an
// older one. TestAgainstLibseccomp holds this for all calls.
//
// The kernel (5.11) keeps a bitmap of calls that a program allows without
// looking at arguments; programs made here load nothing else before such an
// outcome and so cost nothing for most calls.
package seccomp

//go:generate go run generate.go
