package cgroup

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// signals are what the kernel sent of a v1 group that its counter of kills does
// not explain yet. It signals a lack of memory before it kills, and once more
// when the group has been removed; what systemd removed before its counter was
// read is told by the number.
type signals struct {
	n     uint64
	at    time.Time // of the last
	there bool      // one came while the group was: not of its removal
	waits bool      // the killer is disabled: no signal is of a kill
}

// removalSignal bounds how long after a removal the kernel signals it: it waits
// until every processor has let go of the group.
const removalSignal = time.Second

// drainLocked takes what has come, back to none.
func (x *watched) drainLocked() {
	var count [8]byte
	if n, err := unix.Read(int(x.key), count[:]); err != nil || n != len(count) {
		return
	}
	x.signals.n += binary.NativeEndian.Uint64(count[:])
	x.signals.at = time.Now()
	x.signals.there = x.signals.there || exists(x.dir, x.file)
}

// explainLocked forgets signals once the counter has risen, or has not for so long
// that they were of another group's lack: the kernel tells all that is below it.
func (x *watched) explainLocked(text string, more bool) {
	x.signals.waits = field(text, "oom_kill_disable") == 1
	if more || time.Since(x.signals.at) > removalSignal/4 {
		x.signals.n, x.signals.there = 0, false
	}
}

// lostV1 is lost of a v1 group. It only waits for one of which a single signal
// came, and was read when the group was gone.
func (w *Watcher) lostV1(x *watched) bool {
	for end := time.Now().Add(removalSignal); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		if w.groups[x.id] != x {
			w.mu.Unlock()
			return false
		}
		x.drainLocked()
		s := x.signals
		w.mu.Unlock()
		switch {
		case s.n == 0 || s.waits:
			return false
		case s.there || s.n > 1:
			return !exists(x.dir, x.file)
		case time.Now().After(end):
			return false
		}
	}
}
