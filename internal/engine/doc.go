// Package engine is the life of containers: it brings the rooms together and
// is the only one that does.
//
//	created ──▶ running ◀──▶ paused
//	   │           │            │
//	   │           ▼            ▼
//	   │        exited or restarting ──▶ running
//	   ▼           │
//	removing ◀─────┘
//
// A change of a container is stored before anybody is told of it, and what a
// verb made is undone when a later step fails. Restore brings the records, the
// keeper's processes and the networks together at start.
package engine
