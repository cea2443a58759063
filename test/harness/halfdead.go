package harness

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// halfDead ends its first thread and lives on in another, by a name that reads in
// /proc/PID/stat as if it had ended altogether.
const halfDead = `
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *rest(void *main) { sleep(1); write(1, "\n", 1); pause(); return 0; }
int main(void) {
	pthread_t t;
	prctl(PR_SET_NAME, "a) Z 1 1");
	if (pthread_create(&t, 0, rest, 0)) return 1;
	syscall(SYS_exit, 0);
}`

// HalfDead is the pid of a process whose first thread is a zombie while another lives.
func HalfDead(t *testing.T) int {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte(halfDead), 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "a")
	if out, err := exec.Command("gcc", "-static", "-pthread", "-o", program, program+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadByte(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
