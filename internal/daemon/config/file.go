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
	"strings"

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
	f := &fileReader{c: c, path: path, src: src, byKey: make(map[string]*option, len(opts)), byFlag: byFlag, seen: map[string]int{}}
	for i := range opts {
		f.byKey[opts[i].key] = &opts[i]
		if opts[i].alias != "" {
			f.byKey[opts[i].alias] = &opts[i]
		}
	}
	f.members("", obj)
	return errors.Join(f.errs...)
}

// fileReader applies one file.
type fileReader struct {
	c      *Config
	path   string
	src    []byte
	byKey  map[string]*option
	byFlag func(*option) bool
	seen   map[string]int // key to line
	errs   []error
}

// members applies an object's members; prefix stands before their names.
func (f *fileReader) members(prefix string, obj *hujson.Object) {
	for i := range obj.Members {
		m := &obj.Members[i]
		name := prefix + m.Name.Value.(hujson.Literal).String()
		line := lineOf(f.src, m.Name.StartOffset)
		if err := f.member(name, line, m.Value); err != nil {
			f.errs = append(f.errs, fmt.Errorf("%s, line %d: %w", f.path, line, err))
		}
	}
}

func (f *fileReader) member(name string, line int, value hujson.Value) error {
	if first, dup := f.seen[name]; dup {
		return fmt.Errorf("%q is there twice (line %d too)", name, first)
	}
	f.seen[name] = line
	o := f.byKey[name]
	v := value.Clone()
	v.Minimize()
	switch obj, isObject := value.Value.(*hujson.Object); {
	case o == nil && slices.Contains(already[name], string(v.Pack())):
	case o == nil && isObject && f.isGroup(name):
		f.members(name+".", obj)
	case o == nil && f.isGroup(name):
		return fmt.Errorf("%q: an object is needed; it is %s", name, v.Pack())
	case o == nil && unsupported[name] != "":
		return refused(name)
	case o == nil:
		return fmt.Errorf("unknown key %q%s", name, suggestion(name, f.byKey))
	case f.byFlag(o):
		f.c.Overridden = append(f.c.Overridden, name)
	default:
		if name == o.alias {
			f.c.Notes = append(f.c.Notes, fmt.Sprintf("%s, line %d: %q is read as %q", f.path, line, name, o.key))
		}
		if err := o.value.setJSON(json.RawMessage(v.Pack())); err != nil {
			return fmt.Errorf("%q: %w; it is %s", name, err, v.Pack())
		}
	}
	return nil
}

// isGroup says whether a key holds options.
func (f *fileReader) isGroup(name string) bool {
	for key := range f.byKey {
		if strings.HasPrefix(key, name+".") {
			return true
		}
	}
	return false
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
