// Command reference writes the command reference, docs/reference and docs/zh/reference,
// from the command line itself and what zh.json has for its sentences: make docs.
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
	log.SetFlags(0)
	for _, l := range languages() {
		all, err := pages(cli.Tree(), l)
		if err == nil {
			err = write(l.Dir, all)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// write makes the folder hold the reference's pages and no other.
func write(dir string, all map[string][]byte) error {
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
// in full, one for those of no group, and the list of all. It is an error if the language
// lacks a sentence, or has one that nothing says.
func pages(root *cobra.Command, l *language) (map[string][]byte, error) {
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
	fmt.Fprintf(&list, "# %s\n\n%s\n\n%s%s `%s`\n\n%s\n\n## %s\n\n%s\n\n", l.say("Command reference"), l.Other, generated, l.sentence(root.Short), root.UseLine(),
		l.say("Each command says the same by `--help`, and the manual pages, as `man hezi-run`, have it too."), l.say("Options of hezi itself"), l.say("They stand before the command."))
	options(&list, l, root.Flags())
	section := func(file, title, text string, commands []*cobra.Command) {
		var page bytes.Buffer
		fmt.Fprintf(&page, "# %s\n\n%s%s\n\n", title, generated, text)
		fmt.Fprintf(&list, "\n## [%s](%s)\n\n%s\n\n| %s | %s |\n|---|---|\n", title, file, text, l.say("command"), l.say("does"))
		for _, c := range commands {
			forms := append([]string{c.CommandPath()}, short[key(c)]...)
			fmt.Fprintf(&list, "| [`%s`](%s#%s) | %s |\n", strings.Join(forms, "`, `"), file, anchor(c), cell(l.say(c.Short)))
			describe(&page, l, c, short[key(c)])
		}
		all[file] = slices.Concat(bytes.TrimRight(page.Bytes(), "\n"), []byte("\n"))
	}
	for _, g := range groups {
		section(g.Name()+".md", g.CommandPath(), l.sentence(g.Short), leaves(g))
	}
	section(others, l.say("Other commands"), l.say("Those of no group."), rest)
	all[index] = list.Bytes()
	return all, l.check()
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

func describe(b *bytes.Buffer, l *language, c *cobra.Command, short []string) {
	fmt.Fprintf(b, "## %s\n\n%s\n\n```\n", c.CommandPath(), l.sentence(c.Short))
	for line := range strings.Lines(c.UseLine()) {
		fmt.Fprintln(b, strings.TrimSpace(line))
	}
	fmt.Fprint(b, "```\n\n")
	for _, a := range c.Aliases {
		short = append(short, c.Parent().CommandPath()+" "+a)
	}
	if len(short) > 0 {
		fmt.Fprintf(b, "%s`%s`\n\n", l.say("Also: "), strings.Join(short, "`, `"))
	}
	if text := more(c); text != "" {
		fmt.Fprintf(b, "```text\n%s\n```\n\n", l.say(text))
	}
	if c.HasExample() {
		fmt.Fprintf(b, "```console\n%s\n```\n\n", strings.Trim(c.Example, "\n"))
	}
	if c.HasAvailableLocalFlags() {
		options(b, l, c.NonInheritedFlags())
		b.WriteByte('\n')
	}
}

// more is what a command's long description has beyond the short one: all of it, if it
// goes on in the middle of the sentence.
func more(c *cobra.Command) string {
	long := strings.TrimSpace(c.Long)
	rest, found := strings.CutPrefix(long, c.Short)
	if !found || rest != "" && !strings.HasPrefix(rest, ".") && !strings.HasPrefix(rest, "\n") {
		return long
	}
	return strings.TrimLeft(rest, ". \n")
}

// options is a table of flags.
func options(b *bytes.Buffer, l *language, flags *pflag.FlagSet) {
	head := fmt.Sprintf("| %s | %s | %s | %s |\n|---|---|---|---|\n", l.say("option"), l.say("value"), l.say("what it does"), l.say("default"))
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
		fmt.Fprintf(b, "%s| %s | %s | %s | %s |\n", head, name, kind, cell(l.say(plain(text))), def)
		head = ""
	})
}

// plain is text without the spaces that line it up.
func plain(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, "\n")
}

// cell makes text fit a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "\n", "<br>").Replace(text)
}
