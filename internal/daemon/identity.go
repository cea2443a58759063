package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"hezi/internal/daemon/config"
	"hezi/internal/disk"
)

// identity tells two engines on one machine apart in the kernel's names. The
// default roots have the empty identity and so the plain names.
func identity(dataRoot, execRoot string) string {
	data, run := filepath.Clean(dataRoot), filepath.Clean(execRoot)
	if data == config.DefaultDataRoot && run == config.DefaultExecRoot {
		return ""
	}
	sum := sha256.Sum256([]byte(data + "\x00" + run))
	return hex.EncodeToString(sum[:])[:8]
}

// makeRoots creates the data root and the exec root. Programs inside a
// container's root may need to pass the data root as another user: 0711.
func makeRoots(c *config.Config) error {
	for _, r := range []struct {
		path string
		mode os.FileMode
	}{{c.DataRoot, 0o711}, {c.ExecRoot, 0o711}} {
		if err := os.MkdirAll(r.path, r.mode); err != nil {
			return disk.Explain(r.path, fmt.Errorf("make %s: %w", r.path, err))
		}
		if err := os.Chmod(r.path, r.mode); err != nil {
			return disk.Explain(r.path, fmt.Errorf("set the mode of %s: %w", r.path, err))
		}
	}
	return nil
}

// keeperBinary is hezi-keeper beside our own binary, else on PATH.
func keeperBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("hezid's own binary: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", fmt.Errorf("hezid's own binary: %w", err)
	}
	beside := filepath.Join(filepath.Dir(self), "hezi-keeper")
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	found, err := exec.LookPath("hezi-keeper")
	if err != nil {
		return "", fmt.Errorf("hezi-keeper is neither beside %s nor on PATH: install it there", self)
	}
	return filepath.Abs(found)
}
