// Package initbin holds the two programs that start containers, embedded:
// hezi-init and hezi-tiny. They run from sealed memfds, so that nothing inside
// a container can overwrite them through /proc/self/exe (CVE-2019-5736).
package initbin

import (
	"embed"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

//go:embed all:bin
var programs embed.FS

// Init gives hezi-init as a sealed memfd.
func Init() (*os.File, error) { return sealed("hezi-init") }

// Tiny gives hezi-tiny, which --init puts before the program.
func Tiny() (*os.File, error) { return sealed("hezi-tiny") }

func sealed(name string) (*os.File, error) {
	text, err := programs.ReadFile("bin/" + name)
	if err != nil {
		return nil, fmt.Errorf("%s is not embedded in this program: build it with `make build`, not with go build alone", name)
	}
	return Memfd(name, text)
}

// Memfd is a sealed, executable file in memory. Its descriptor is a high one,
// so that no child's set of standard descriptors falls on it.
func Memfd(name string, text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is from Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory for %s: %w", name, err)
	}
	low := os.NewFile(uintptr(fd), name)
	defer low.Close()
	if _, err := low.Write(text); err != nil {
		return nil, fmt.Errorf("cannot write %s into memory: %w", name, err)
	}
	if err := unix.Fchmod(fd, 0o500); err != nil {
		return nil, fmt.Errorf("cannot make %s executable: %w", name, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", name, err)
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return nil, fmt.Errorf("cannot keep %s open: %w", name, err)
	}
	return os.NewFile(uintptr(high), name), nil
}
