// Package version holds the build's version.
package version

// Version is set by the linker (see the Makefile).
var Version = "dev"

// API versions of the Docker Engine API that hezid speaks.
const (
	API    = "1.56"
	MinAPI = "1.24"
)
