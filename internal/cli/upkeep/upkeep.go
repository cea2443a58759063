// Package upkeep has the commands that keep the engine's disk in order: what
// is on it, whether it is whole, and what can go.
package upkeep

import (
	"context"
	"io"
	"os"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

// Client is what the commands need of the command line.
type Client struct {
	In  io.Reader
	Out *os.File
	// Run connects to the engine first.
	Run    func(f func(ctx context.Context, engine *endpoint.Connection, args []string) error) func(*cobra.Command, []string) error
	Config func() (*configfile.ConfigFile, error)
	// Exit makes an error that ends hezi with a code; err may be nil.
	Exit func(code int, err error) error
	// FormatHelp is the help of --format for a single object, ListHelp for lists.
	FormatHelp, ListHelp string
}
