// Command hezid is the engine of Hezi; see internal/daemon.
package main

import (
	"os"

	"hezi/internal/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr)) }
