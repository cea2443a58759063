// Package apparmor has the AppArmor profile of containers: Docker's, under a
// name of our own. The kernel takes profiles in a compiled form that only
// apparmor_parser makes, so it is run when the profile is not loaded yet.
package apparmor

import (
	"fmt"
	"os"
	"os/exec"
	"sync"

	moby "github.com/moby/profiles/apparmor"
)

// Default is the profile of containers that ask for no other; Docker is the
// name of Docker's, which means the same.
const (
	Default = "hezi-default"
	Docker  = "docker-default"
)

// Supported says whether the kernel confines by AppArmor and profiles can be
// loaded. why tells what is missing where the kernel could.
func Supported() (ok bool, why string) {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || len(on) == 0 || on[0] != 'Y' {
		return false, ""
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor/profiles"); err != nil {
		return false, "AppArmor is on, but its files are not in sight: mount -t securityfs securityfs /sys/kernel/security"
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		return false, "AppArmor is on, but apparmor_parser is not installed, so containers run without its profile: install the package apparmor"
	}
	return true, ""
}

// Loaded says whether the kernel has a profile.
func Loaded(name string) (bool, error) { return moby.IsLoaded(name) }

var loading sync.Mutex

// Ensure loads the default profile if the kernel does not have it (any more).
func Ensure() error {
	loading.Lock()
	defer loading.Unlock()
	loaded, err := Loaded(Default)
	if err != nil {
		return fmt.Errorf("whether the AppArmor profile %s is loaded: %w", Default, err)
	}
	if loaded {
		return nil
	}
	if err := moby.InstallDefault(Default); err != nil {
		return fmt.Errorf("AppArmor enabled on system but the %s profile could not be loaded: %w", Default, err)
	}
	return nil
}
