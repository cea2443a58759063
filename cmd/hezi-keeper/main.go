// Command hezi-keeper holds the containers: it is their parent, writes their
// logs and serves attached clients. hezid starts it and can be replaced or
// killed at any moment without it.
//
// As `hezi-keeper oci`, or under the name hezi-oci, it is an OCI runtime for
// other engines, and holds nothing.
package main

import (
	"log/slog"
	"os"
	"path/filepath"

	"hezi/internal/box"
	"hezi/internal/keeper"
	"hezi/internal/keeper/server"
	"hezi/internal/oci"
	"hezi/internal/relay"
	"hezi/internal/runtimes"
	"hezi/internal/version"
)

// pool is how many prepared inits wait for a start.
const pool = 1

func main() {
	switch {
	case filepath.Base(os.Args[0]) == "hezi-oci":
		os.Exit(oci.Run(version.Version, os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "oci":
		os.Exit(oci.Run(version.Version, os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == relay.Command:
		os.Exit(relay.Run(os.Args[2:], keeper.LeaveCgroup, keeper.Running))
	case len(os.Args) > 1 && os.Args[1] == runtimes.Courier:
		os.Exit(runtimes.RunCourier(os.Args[2:]))
	}
	c := server.Command{
		Version: version.Version,
		NewRuntime: func(identity string) (server.Runtime, error) {
			return box.NewRuntime(box.Options{Identity: identity, Pool: pool})
		},
		NewOthers: func(execRoot, identity string, r server.Runtime, log *slog.Logger) (server.Others, error) {
			return runtimes.New(execRoot, identity, r.(*box.Runtime), log) // as it was just made
		},
		OpenCgroup: server.OpenCgroupDirs,
	}
	os.Exit(c.Run(os.Args[1:]))
}
