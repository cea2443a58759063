package cli

import (
	"fmt"
	"io"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// newDialStdio joins standard input and output with the engine's socket: the
// far end of ssh:// addresses.
func newDialStdio(a *App) *cobra.Command {
	cmd := &cobra.Command{Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		engine, err := a.connect()
		if err != nil {
			return err
		}
		conn, err := engine.Dial(cmd.Context())
		if err != nil {
			return engine.Explain(fmt.Errorf("failed to open the raw stream connection: %w", err))
		}
		defer conn.Close()
		sent, received := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := io.Copy(conn, a.In)
			if half, ok := conn.(client.CloseWriter); ok {
				_ = half.CloseWrite() // a connection that is gone is seen by the receiver
			}
			sent <- err
		}()
		go func() {
			_, err := io.Copy(a.Out, conn)
			received <- err
		}()
		select {
		case err = <-sent:
			if err == nil {
				err = <-received
			}
		case err = <-received: // standard input may never end
		case <-cmd.Context().Done():
			err = cmd.Context().Err()
		}
		return err
	}
	return cmd
}
