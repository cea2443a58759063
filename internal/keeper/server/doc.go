// Package server is hezi-keeper: it starts containers, is their parent, holds
// their pipes and terminals, writes their logs, serves attached clients and
// reaps them; and the holder, the keeper's parent, which outlives it.
//
//	holder ──fork──▶ keeper ──clone──▶ containers
//	  │  listening socket, a copy of each descriptor, each record
//	  └─ starts the keeper again and hands all back when it was killed
//
// A process goes through
//
//	starting ──▶ running ──▶ exited (waiters answered) ──▶ drained (output
//	flushed, clients closed) ──▶ forgotten (by Forget, cgroup removed)
//
// Output of a logged pipe goes by splice(2) into a memfd, the spool, whose
// size tells exactly what has arrived; then to the log; then the spool's
// header says what was logged. The header also holds the log's size before
// each write, so that a write that a killed keeper did not mark is undone and
// done again: each byte is in the log exactly once. A terminal's bytes are read
// and then spooled: a killed keeper loses one read buffer of it at most.
package server
