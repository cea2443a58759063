// Command reference writes the command reference, docs/reference, from the command line
// itself: make docs.
package main

import (
	"bytes"
	"cmp"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hezi/internal/cli"
)

func main() {
	if err := write("docs/reference"); err != nil {
		log.Fatal(err)
	}
}

// write makes the folder hold the reference's pages and no other.
func write(dir string) error {
	all := pages(cli.Tree())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range old {
		if all[f.Name()] == nil {
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	generated = "<!-- Made by \"make docs\" from the command line itself: do not edit. -->\n\n"
	index     = "README.md"
	others    = "other.md" // commands of no group
)

// pages are the reference's files by name: a page for each group, which has its commands
// in full, one for those of no group, and the list of all.
func pages(root *cobra.Command) map[string][]byte {
	all := map[string][]byte{}
	short := map[string][]string{} // by what they do: it is what a short form shares with its long one
	var rest []*cobra.Command
	groups := listed(root, func(c *cobra.Command) bool { return c.HasSubCommands() })
	long := map[string]bool{}
	for _, g := range groups {
		for _, c := range leaves(g) {
			long[key(c)] = true
		}
	}
	for _, c := range listed(root, func(c *cobra.Command) bool { return !c.HasSubCommands() && c.Name() != "help" }) {
		if long[key(c)] {
			short[key(c)] = append(short[key(c)], c.CommandPath())
		} else {
			rest = append(rest, c)
		}
	}
	var list bytes.Buffer
	fmt.Fprintf(&list, "# Command reference\n\n%s%s\n\nEach command says the same by `--help`, and the manual pages, as `man hezi-run`, have it too.\n\n## Options of hezi itself\n\nThey stand before the command.\n\n", generated, root.Short+". `"+root.UseLine()+"`")
	options(&list, root.Flags())
	section := func(file, title, text string, commands []*cobra.Command) {
		var page bytes.Buffer
		fmt.Fprintf(&page, "# %s\n\n%s%s\n\n", title, generated, text)
		fmt.Fprintf(&list, "\n## [%s](%s)\n\n%s\n\n| command | does |\n|---|---|\n", title, file, text)
		for _, c := range commands {
			forms := append([]string{c.CommandPath()}, short[key(c)]...)
			fmt.Fprintf(&list, "| [`%s`](%s#%s) | %s |\n", strings.Join(forms, "`, `"), file, anchor(c), cell(c.Short))
			describe(&page, c, short[key(c)])
		}
		all[file] = slices.Concat(bytes.TrimRight(page.Bytes(), "\n"), []byte("\n"))
	}
	for _, g := range groups {
		section(g.Name()+".md", g.CommandPath(), g.Short+".", leaves(g))
	}
	section(others, "Other commands", "Those of no group.", rest)
	all[index] = list.Bytes()
	return all
}

// key is what a command and its short form have in common.
func key(c *cobra.Command) string { return c.Short + "\n" + c.Flags().FlagUsages() }

// listed are the commands below one that are not hidden and that keep, nil for all,
// takes, by name.
func listed(parent *cobra.Command, keep func(*cobra.Command) bool) []*cobra.Command {
	list := slices.DeleteFunc(slices.Clone(parent.Commands()), func(c *cobra.Command) bool { return c.Hidden || keep != nil && !keep(c) })
	slices.SortFunc(list, func(a, b *cobra.Command) int { return cmp.Compare(a.Name(), b.Name()) })
	return list
}

// leaves are the commands of a group and of the groups in it.
func leaves(g *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, c := range listed(g, nil) {
		if c.HasSubCommands() {
			list = append(list, leaves(c)...)
		} else {
			list = append(list, c)
		}
	}
	return list
}

// anchor is what renderers of Markdown make of a command's heading.
func anchor(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func describe(b *bytes.Buffer, c *cobra.Command, short []string) {
	fmt.Fprintf(b, "## %s\n\n%s.\n\n```\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."))
	for line := range strings.Lines(c.UseLine()) {
		fmt.Fprintln(b, strings.TrimSpace(line))
	}
	fmt.Fprint(b, "```\n\n")
	for _, a := range c.Aliases {
		short = append(short, c.Parent().CommandPath()+" "+a)
	}
	if len(short) > 0 {
		fmt.Fprintf(b, "Also: `%s`\n\n", strings.Join(short, "`, `"))
	}
	if text := strings.TrimLeft(strings.TrimPrefix(strings.TrimSpace(c.Long), c.Short), ".\n"); text != "" {
		fmt.Fprintf(b, "```text\n%s\n```\n\n", text)
	}
	if c.HasExample() {
		fmt.Fprintf(b, "```console\n%s\n```\n\n", strings.Trim(c.Example, "\n"))
	}
	if c.HasAvailableLocalFlags() {
		options(b, c.NonInheritedFlags())
		b.WriteByte('\n')
	}
}

// options is a table of flags.
func options(b *bytes.Buffer, flags *pflag.FlagSet) {
	head := "| option | value | what it does | default |\n|---|---|---|---|\n"
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" || f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		kind, text := pflag.UnquoteUsage(f)
		if f.Value.Type() == "bool" {
			kind = ""
		}
		def := ""
		switch f.DefValue {
		case "", "0", "0s", "false", "[]", "map[]", "<nil>":
		default:
			def = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(b, "%s| %s | %s | %s | %s |\n", head, name, kind, cell(text), def)
		head = ""
	})
}

// cell makes text fit a cell of a table.
func cell(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "\n", "<br>").Replace(strings.Join(lines, "\n"))
}
