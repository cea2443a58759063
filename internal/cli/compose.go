package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/spf13/cobra"
)

const composeProgram = "docker-compose"

// newCompose runs Docker's Compose, a client of the API in a program of its
// own, on the engine that hezi talks to.
func newCompose(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "[OPTIONS] COMMAND",
		Long: `Docker's Compose, which is a program of its own: what follows goes to docker-compose as it stands,
with DOCKER_HOST or DOCKER_CONTEXT set to hezi's engine. It is looked for where Docker's client looks for its
plugins (~/.docker/cli-plugins, "cliPluginsExtraDirs" in config.json, /usr/local/lib/docker/cli-plugins,
/usr/local/libexec/docker/cli-plugins, /usr/lib/docker/cli-plugins, /usr/libexec/docker/cli-plugins), then on the PATH.`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.Config()
			if err != nil {
				return err
			}
			path, err := findCompose(cfg)
			if err != nil {
				return err
			}
			ep, err := a.flags.Resolve(cfg)
			if err != nil {
				return err
			}
			set, err := a.flags.Environment(ep)
			if err != nil {
				return err
			}
			err = syscall.Exec(path, append([]string{composeProgram}, args...), withSettings(os.Environ(), set))
			return fmt.Errorf("cannot run %s: %w", path, err)
		},
	}
}

// findCompose is the program's path.
func findCompose(cfg *configfile.ConfigFile) (string, error) {
	dirs := []string{filepath.Join(config.Dir(), "cli-plugins")}
	dirs = append(dirs, cfg.CLIPluginsExtraDirs...)
	dirs = append(dirs, "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
		"/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins") // as Docker's client has them
	for _, dir := range dirs {
		path, err := exec.LookPath(filepath.Join(dir, composeProgram))
		if err == nil || errors.Is(err, exec.ErrDot) {
			return filepath.Abs(path)
		}
	}
	path, err := exec.LookPath(composeProgram)
	if err != nil {
		return "", fmt.Errorf("there is no %s in %s or on the PATH: Docker's Compose is not installed\nInstall it (Debian: apt-get install docker-compose), or put Docker's release of it into %s: https://docs.docker.com/compose/install/",
			composeProgram, strings.Join(dirs, ", "), dirs[0])
	}
	return path, nil
}

// withSettings is an environment in which set replaces what was there; an empty
// value takes a name out.
func withSettings(env []string, set map[string]string) []string {
	var all []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if _, replaced := set[name]; !replaced {
			all = append(all, e)
		}
	}
	for name, value := range set {
		if value != "" {
			all = append(all, name+"="+value)
		}
	}
	return all
}
