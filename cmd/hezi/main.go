// Command hezi is the client: Docker's command line for Hezi's engine, or for
// any other that speaks the Docker Engine API.
package main

import (
	"os"

	"hezi/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
