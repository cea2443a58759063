package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// exactArgs, minArgs, maxArgs and rangeArgs count a command's arguments; the
// words are Docker's.
func exactArgs(n int) cobra.PositionalArgs {
	return countArgs(func(have int) bool { return have == n }, fmt.Sprintf("requires %d %s", n, plural(n)))
}

func minArgs(n int) cobra.PositionalArgs {
	return countArgs(func(have int) bool { return have >= n }, fmt.Sprintf("requires at least %d %s", n, plural(n)))
}

func maxArgs(n int) cobra.PositionalArgs {
	return countArgs(func(have int) bool { return have <= n }, fmt.Sprintf("requires at most %d %s", n, plural(n)))
}

func rangeArgs(low, high int) cobra.PositionalArgs {
	return countArgs(func(have int) bool { return have >= low && have <= high }, fmt.Sprintf("requires at least %d and at most %d %s", low, high, plural(high)))
}

func noArgs(cmd *cobra.Command, args []string) error {
	return countArgs(func(have int) bool { return have == 0 }, "accepts no arguments")(cmd, args)
}

func countArgs(ok func(int) bool, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if ok(len(args)) {
			return nil
		}
		return fmt.Errorf("hezi: '%[1]s' %[2]s\n\nUsage:  %[3]s\n\nRun '%[1]s --help' for more information", cmd.CommandPath(), want, cmd.UseLine())
	}
}

func plural(n int) string {
	if n == 1 {
		return "argument"
	}
	return "arguments"
}

// flagError is a flag that does not exist or whose value is wrong.
func flagError(cmd *cobra.Command, err error) error {
	return &exitError{code: 125, err: fmt.Errorf("%w\n\nUsage:  %s\n\nRun '%s --help' for more information", err, cmd.UseLine(), cmd.CommandPath())}
}

// withHelp is an error of run and create, with the way to their flags.
func withHelp(err error, command string) error {
	return fmt.Errorf("hezi: %w\n\nRun 'hezi %s --help' for more information", err, command)
}
