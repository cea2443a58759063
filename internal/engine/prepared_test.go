package engine

import (
	"os"
	"syscall"
	"testing"

	"hezi/internal/keeper"
)

// TestPreparedNet: the number of a process that was prepared may be another's, whose
// network must not be filled: the start is tried again.
func TestPreparedNet(t *testing.T) {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	f, err := preparedNet("a", keeper.Prepared{PID: os.Getpid(), Net: st.Ino})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for name, made := range map[string]keeper.Prepared{"another": {PID: os.Getpid(), Net: st.Ino + 1}, "none": {PID: 1 << 30, Net: st.Ino}} {
		if f, err := preparedNet("a", made); !unprepared(err) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}
