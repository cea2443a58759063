// Command hezid is the engine of Hezi; see internal/daemon.
//
// As `hezid docker-root` it reads what a Docker has left; see internal/dockerroot.
package main

import (
	"os"

	"hezi/internal/daemon"
	"hezi/internal/dockerroot"
	"hezi/internal/version"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == dockerroot.Command {
		os.Exit(dockerroot.Run(os.Args[2:], version.API, os.Stdout, os.Stderr))
	}
	os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr))
}
