package cli

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hezi/internal/cli/term"
)

// help prints what a command is for, in Docker's layout.
func help(cmd *cobra.Command, _ []string) {
	if cmd.Root() == cmd {
		overview(cmd)
		return
	}
	if cmd.DisableFlagParsing && cmd.RunE != nil {
		cmd.PrintErrln(cmd.RunE(cmd, nil)) // not there yet: says so
		return
	}
	var b bytes.Buffer
	describe(&b, cmd)
	fmt.Fprint(cmd.OutOrStdout(), b.String())
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(c *cobra.Command, args []string) error {
			cmd, rest, err := c.Root().Find(args)
			if cmd == nil || err != nil || len(rest) > 0 {
				return fmt.Errorf("unknown help topic: %s\n\nRun 'hezi' to see all commands", strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// usage is what cobra prints with an error of its own.
func usage(cmd *cobra.Command) error {
	var b bytes.Buffer
	describe(&b, cmd)
	_, err := fmt.Fprint(cmd.OutOrStderr(), b.String())
	return err
}

func describe(b *bytes.Buffer, cmd *cobra.Command) {
	if cmd.HasSubCommands() {
		fmt.Fprintf(b, "Usage:  %s COMMAND\n\n%s\n", cmd.CommandPath(), cmd.Short)
	} else {
		text := cmd.Short
		if cmd.Long != "" {
			text = strings.TrimSpace(cmd.Long)
		}
		fmt.Fprintf(b, "Usage:  %s\n\n%s\n", cmd.UseLine(), text)
	}
	if forms := otherForms(cmd); len(forms) > 0 {
		fmt.Fprintf(b, "\nAliases:\n  %s\n", strings.Join(forms, ", "))
	}
	if cmd.HasExample() {
		fmt.Fprintf(b, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableFlags() && !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\nOptions:\n%s\n", options(cmd.Flags()))
	}
	if cmd.HasSubCommands() {
		section(b, "Commands:", cmd.Commands(), func(*cobra.Command) bool { return true })
		fmt.Fprintf(b, "\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
}

// otherForms are the aliases of a command with their groups.
func otherForms(cmd *cobra.Command) []string {
	if len(cmd.Aliases) == 0 || !cmd.HasParent() {
		return nil
	}
	forms := []string{cmd.CommandPath()}
	for _, a := range cmd.Aliases {
		forms = append(forms, cmd.Parent().CommandPath()+" "+a)
	}
	return forms
}

// options lists flags, wrapped at the terminal's width.
func options(flags *pflag.FlagSet) string {
	width := 80
	if _, cols := term.Size(os.Stdin); cols > 40 {
		width = int(cols)
	}
	type row struct{ name, text string }
	var rows []row
	column := 0
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		name := "      --" + f.Name
		if f.Shorthand != "" {
			name = "  -" + f.Shorthand + ", --" + f.Name
		}
		kind, text := pflag.UnquoteUsage(f)
		if kind != "" && f.Value.Type() != "bool" {
			name += " " + kind
		}
		switch f.DefValue {
		case "", "0", "0s", "false", "[]", "map[]", "<nil>":
		default:
			if f.Value.Type() == "string" {
				text += fmt.Sprintf(" (default %q)", f.DefValue)
			} else {
				text += fmt.Sprintf(" (default %s)", f.DefValue)
			}
		}
		rows = append(rows, row{name, text})
		column = max(column, len(name)+3)
	})
	var b strings.Builder
	for _, r := range rows {
		for i, line := range wrap(r.text, width-column-1) {
			if i > 0 {
				r.name = ""
			}
			fmt.Fprintf(&b, "%-*s%s\n", column, r.name, line)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// wrap breaks text at blanks; its own line ends stay.
func wrap(text string, width int) []string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		for len(line) > width {
			cut := strings.LastIndexByte(line[:width+1], ' ')
			if cut <= 0 || width <= 0 {
				break
			}
			lines = append(lines, strings.TrimRight(line[:cut], " "))
			line = line[cut+1:]
		}
		lines = append(lines, line)
	}
	return lines
}

// overview is `hezi` without arguments: all commands, grouped.
func overview(root *cobra.Command) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Usage:  %s\n\n%s\n", root.UseLine(), root.Short)
	is := func(key string) func(*cobra.Command) bool {
		return func(c *cobra.Command) bool { return c.Annotations[key] != "" }
	}
	section(&b, "Common Commands:", root.Commands(), is("top"))
	section(&b, "Management Commands:", root.Commands(), is("group"))
	section(&b, "Commands:", root.Commands(), func(c *cobra.Command) bool { return !is("top")(c) && !is("group")(c) })
	fmt.Fprintf(&b, "\nGlobal Options:\n%s\n", options(root.Flags()))
	fmt.Fprint(&b, "\nRun 'hezi COMMAND --help' for more information on a command.\nTry it: hezi run --rm hezi/hello\n")
	fmt.Fprint(root.OutOrStdout(), b.String())
}

// section lists commands: the common ones in their own order, others sorted.
func section(b *bytes.Buffer, title string, all []*cobra.Command, member func(*cobra.Command) bool) {
	var list []*cobra.Command
	width := 0
	for _, c := range all {
		if !c.Hidden && member(c) {
			list = append(list, c)
			width = max(width, len(c.Name()))
		}
	}
	if len(list) == 0 {
		return
	}
	if title != "Common Commands:" {
		slices.SortFunc(list, func(x, y *cobra.Command) int { return strings.Compare(x.Name(), y.Name()) })
	}
	fmt.Fprintf(b, "\n%s\n", title)
	for _, c := range list {
		fmt.Fprintf(b, "  %-*s  %s\n", width, c.Name(), c.Short)
	}
}
