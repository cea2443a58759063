package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// notOurs are commands of Docker's reference that Hezi leaves out: swarm mode,
// plugins, content trust.
var notOurs = []string{"swarm", "node", "service", "stack", "secret", "config", "plugin", "trust", "index"}

// lessFlags are flags of Docker's reference that a command does not have.
var lessFlags = map[string]string{
	"system dial-stdio": "not for people",
}

// TestDockersReference compares every command and flag with Docker's own
// reference, which lies in the module of its command line.
func TestDockersReference(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/docker/cli").Output()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "docs/reference/commandline/*.md"))
	if err != nil || len(pages) < 100 {
		t.Fatalf("only %d pages of Docker's reference (%v)", len(pages), err)
	}
	a := &App{builder: true}
	a.Streams = testStreams(t)
	root := a.root()
	a.addCommands(root, nil)
	seen := 0
	for _, page := range pages {
		words := strings.Split(strings.TrimSuffix(filepath.Base(page), ".md"), "_")
		if slices.Contains(notOurs, words[0]) || words[0] == "docker" || words[0] == "README" {
			continue
		}
		cmd, rest, err := root.Find(words)
		if err != nil || len(rest) > 0 || cmd == root {
			t.Errorf("no command %q", strings.Join(words, " "))
			continue
		}
		if cmd.DisableFlagParsing { // not there yet, and says so
			continue
		}
		seen++
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		compareFlags(t, cmd, strings.Join(words, " "), string(text))
	}
	if seen < 60 {
		t.Errorf("only %d commands are there", seen)
	}
}

// optionRow is a row of a page's table of options, e.g.
// | [`-f`](#follow), [`--follow`](#follow) | `bool` | | Follow log output |
var optionRow = regexp.MustCompile("(?m)^\\| +(.*?) +\\| +`([^`]*)` +\\|")

func compareFlags(t *testing.T, cmd *cobra.Command, name, page string) {
	for _, row := range optionRow.FindAllStringSubmatch(page, -1) {
		var long, short string
		for _, f := range regexp.MustCompile("`(-[^`]*)`").FindAllStringSubmatch(row[1], -1) {
			if l, ok := strings.CutPrefix(f[1], "--"); ok {
				long = l
			} else {
				short = strings.TrimPrefix(f[1], "-")
			}
		}
		if long == "" || strings.HasPrefix(row[2], "-") { // a table that compares flags
			continue
		}
		f := cmd.Flags().Lookup(long)
		if f == nil {
			if lessFlags[name] == "" {
				t.Errorf("%s has no --%s", name, long)
			}
			continue
		}
		if short != "" && f.Shorthand != short {
			t.Errorf("%s --%s has the short form -%s, not -%s", name, long, f.Shorthand, short)
		}
		if kind := f.Value.Type(); kind != row[2] && !(row[2] == "stringSlice" && kind == "strings") {
			t.Errorf("%s --%s takes a %s, not a %s", name, long, kind, row[2])
		}
	}
}

// TestTree walks all commands: each has a line for the overview, a parent's
// name before its own, and no short form that means something else.
func TestTree(t *testing.T) {
	a := &App{builder: true}
	a.Streams = testStreams(t)
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		if !c.HasSubCommands() && c.RunE == nil {
			t.Errorf("%s does nothing", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root := a.root()
	a.addCommands(root, nil)
	walk(root)
}

// TestOneCommand: the one that is named is built alone, whatever stands before it.
func TestOneCommand(t *testing.T) {
	for _, args := range [][]string{{"exec", "x"}, {"-H", "unix:///x", "exec", "x"}, {"--context=default", "-D", "exec", "images"}} {
		a := &App{Streams: testStreams(t)}
		root := a.root()
		words, err := parseGlobals(root, args)
		if err != nil {
			t.Fatal(err)
		}
		a.addCommands(root, words)
		if list := root.Commands(); len(list) != 1 || list[0].Name() != "exec" {
			t.Errorf("%q makes %d commands", args, len(list))
		}
	}
}
