package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/tailscale/hujson"
)

const maxFile = 1 << 20

// readFile applies the file. A missing one is an error only if it was named.
func (c *Config) readFile(path string, named bool, opts []option, byFlag func(*option) bool) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the configuration file cannot be read: %w", err)
	}
	if st.Size() > maxFile {
		return fmt.Errorf("the configuration file %s has %d bytes: that is no configuration (at most %d)", path, st.Size(), maxFile)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the configuration file cannot be read: %w", err)
	}
	c.File = path
	if len(bytes.TrimSpace(src)) == 0 {
		return nil
	}
	root, err := hujson.Parse(src)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	obj, ok := root.Value.(*hujson.Object)
	if !ok {
		return fmt.Errorf("%s: the file must hold one object, { ... }", path)
	}
	return c.apply(path, src, obj, opts, byFlag)
}

// apply sets every member of the file, and reports all that is wrong at once.
func (c *Config) apply(path string, src []byte, obj *hujson.Object, opts []option, byFlag func(*option) bool) error {
	byKey := make(map[string]*option, len(opts))
	for i := range opts {
		byKey[opts[i].key] = &opts[i]
	}
	var errs []error
	seen := map[string]int{}
	for i := range obj.Members {
		m := &obj.Members[i]
		name := m.Name.Value.(hujson.Literal).String()
		line := lineOf(src, m.Name.StartOffset)
		where := fmt.Sprintf("%s, line %d", path, line)
		if first, dup := seen[name]; dup {
			errs = append(errs, fmt.Errorf("%s: %q is there twice (line %d too)", where, name, first))
			continue
		}
		seen[name] = line
		o := byKey[name]
		v := m.Value.Clone()
		v.Minimize()
		switch {
		case o == nil && slices.Contains(already[name], string(v.Pack())):
		case o == nil && unsupported[name] != "":
			errs = append(errs, fmt.Errorf("%s: %w", where, refused(name)))
		case o == nil:
			errs = append(errs, fmt.Errorf("%s: unknown key %q%s", where, name, suggestion(name, byKey)))
		case byFlag(o):
			c.Overridden = append(c.Overridden, name)
		default:
			if err := o.value.setJSON(json.RawMessage(v.Pack())); err != nil {
				errs = append(errs, fmt.Errorf("%s: %q: %w; it is %s", where, name, err, v.Pack()))
			}
		}
	}
	return errors.Join(errs...)
}

func lineOf(src []byte, offset int) int {
	return 1 + bytes.Count(src[:min(offset, len(src))], []byte("\n"))
}

// suggestion names the nearest known key, supported ones first.
func suggestion(name string, byKey map[string]*option) string {
	best, distance := "", len(name)/2+1
	for _, known := range slices.Concat(slices.Sorted(maps.Keys(byKey)), slices.Sorted(maps.Keys(unsupported))) {
		if d := levenshtein(name, known); d < distance {
			best, distance = known, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// levenshtein counts the insertions, deletions and replacements between two words.
func levenshtein(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
