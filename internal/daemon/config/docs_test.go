package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// row is one of the table of docs/configuration.md: what stands in code in its first two
// columns, and its last one.
type row struct {
	keys, flags []string
	reload      string
}

// TestDocumented fails when the pages about the configuration lack a key or a flag, have
// one that is not there, or say otherwise whether it can be reloaded.
func TestDocumented(t *testing.T) {
	for _, name := range []string{"docs/configuration.md", "docs/zh/configuration.md"} {
		text, err := os.ReadFile("../../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		documented := map[string]bool{}
		rows := tableRows(string(text))
		for _, o := range new(Config).options() {
			key, _, _ := strings.Cut(o.key, ".") // a key of an object has the row of that
			i := slices.IndexFunc(rows, func(r row) bool { return slices.Contains(r.keys, key) })
			if i < 0 {
				t.Errorf("%s has no row for %s", name, o.key)
				continue
			}
			documented[key] = true
			r := rows[i]
			for _, flag := range []string{"--" + o.flagName(), "-" + o.short} {
				if flag != "-" && len(r.flags) > 0 && !slices.Contains(r.flags, flag) {
					t.Errorf("%s does not have %s in the row of %s: %v", name, flag, key, r.flags)
				}
			}
			if (r.reload == "reload") != o.reload {
				t.Errorf("%s says %q of %s, and that it is reloaded is %v", name, r.reload, o.key, o.reload)
			}
		}
		for _, r := range rows {
			for _, key := range r.keys {
				if !documented[key] {
					t.Errorf("%s has the key %s, and hezid has not", name, key)
				}
			}
		}
	}
}

// tableRows are the rows with a key.
func tableRows(text string) []row {
	var rows []row
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.Contains(cells[1], "`") {
			continue
		}
		rows = append(rows, row{quoted(cells[1]), quoted(cells[2]), strings.TrimSpace(cells[5])})
	}
	return rows
}

// quoted is what stands in code.
func quoted(cell string) []string {
	var list []string
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			list = append(list, part)
		}
	}
	return list
}
