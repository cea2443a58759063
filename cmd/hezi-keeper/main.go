// Command hezi-keeper holds the containers: it is their parent, writes their
// logs and serves attached clients. hezid starts it and can be replaced or
// killed at any moment without it.
package main

import (
	"os"

	"hezi/internal/box"
	"hezi/internal/keeper/server"
	"hezi/internal/version"
)

// pool is how many prepared inits wait for a start.
const pool = 1

func main() {
	c := server.Command{
		Version: version.Version,
		NewRuntime: func(identity string) (server.Runtime, error) {
			return box.NewRuntime(box.Options{Identity: identity, Pool: pool})
		},
		OpenCgroup: server.OpenCgroupDirs,
	}
	os.Exit(c.Run(os.Args[1:]))
}
