// Package apparmor has the AppArmor profile of containers: Docker's, under a
// name of our own. The kernel takes profiles in a compiled form that only
// apparmor_parser makes, so it is run when the profile is not loaded yet. The packages
// install the profile as a file (packaging/apparmor), for the boot to load it and the
// administrator to change it.
package apparmor

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	moby "github.com/moby/profiles/apparmor"
	"golang.org/x/sys/unix"
)

// Default is the profile of containers that ask for no other; Docker is the
// name of Docker's, which means the same.
const (
	Default = "hezi-default"
	Docker  = "docker-default"
)

// file has the default profile where the packages have installed it, with what the
// administrator has changed.
const file = "/etc/apparmor.d/" + Default

// Supported says whether the kernel confines by AppArmor and profiles can be
// loaded. why tells what is missing where the kernel could.
func Supported() (ok bool, why string) {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || len(on) == 0 || on[0] != 'Y' {
		return false, ""
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor/profiles"); err != nil {
		return false, "AppArmor is on, but its files are not in sight, so containers run without its profile: mount -t securityfs securityfs /sys/kernel/security, then restart hezid"
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		return false, "AppArmor is on, but apparmor_parser is not installed, so containers run without its profile: install the package apparmor (Debian: apt install apparmor), then restart hezid"
	}
	return true, ""
}

// Loaded says whether the kernel has a profile.
func Loaded(name string) (bool, error) { return moby.IsLoaded(name) }

var policy struct {
	sync.Mutex
	seen string // the revision of the kernel's policy that had the default profile
}

// Ensure loads the default profile if the kernel does not have it (any more).
// Where nothing changed since the last call it costs the reading of a number.
func Ensure() error {
	policy.Lock()
	defer policy.Unlock()
	now := revision() // before the look, which holds for it then
	if now != "" && now == policy.seen {
		return nil
	}
	loaded, err := Loaded(Default)
	if err != nil {
		return fmt.Errorf("whether the AppArmor profile %s is loaded: %w", Default, err)
	}
	if loaded {
		policy.seen = now
		return nil
	}
	if err := load(); err != nil {
		return fmt.Errorf("AppArmor enabled on system but the %s profile could not be loaded: %w", Default, err)
	}
	return nil
}

func load() error {
	if _, err := os.Stat(file); err != nil {
		return moby.InstallDefault(Default)
	}
	if out, err := exec.Command("apparmor_parser", "-Kr", file).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s (%w): mend it, or remove it for the built-in profile", file, strings.TrimSpace(string(out)), err)
	}
	return nil
}

// revision is the number of changes of the kernel's policy, or "".
func revision() string {
	fd, err := unix.Open("/sys/kernel/security/apparmor/revision", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // it waits for a change otherwise
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var b [32]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return ""
	}
	return string(b[:n])
}
