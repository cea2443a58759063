package request

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the goldens")

// parse reads a command line: flags, then an image and its arguments.
func parse(t *testing.T, args []string) (*Container, error) {
	t.Helper()
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.SetOutput(&strings.Builder{})
	o := AddFlags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.Image, o.Args = f.Arg(0), f.Args()[1:]
	return o.Container(nil)
}

// leaves are the values of a JSON document by their paths.
func leaves(v any) map[string]string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		panic(err)
	}
	all := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok || len(m) == 0 {
			if b, _ := json.Marshal(v); !slices.Contains([]string{`null`, `""`, `0`}, string(b)) {
				all[path] = string(b)
			}
			return
		}
		for k, v := range m {
			walk(strings.TrimPrefix(path+"."+k, "."), v)
		}
	}
	walk("", doc)
	return all
}

// TestGolden holds what every flag changes in the request: each line of
// testdata/flags.txt that begins with `$` is a command line, and below it
// stands what differs from the request of `IMAGE` alone.
func TestGolden(t *testing.T) {
	t.Chdir("testdata")
	t.Setenv("HOME", "/home/me")
	plain, err := parse(t, []string{"image"})
	if err != nil {
		t.Fatal(err)
	}
	base := leaves(plain)
	path := "flags.txt"
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	abs, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(abs, "$PWD", filepath.Dir(abs), "$PWD/..")
	var got strings.Builder
	for line := range strings.Lines(string(want)) {
		if strings.HasPrefix(line, "#") {
			if got.Len() > 0 {
				got.WriteByte('\n')
			}
			got.WriteString(line)
		}
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		fmt.Fprintf(&got, "\n%s", line)
		args := split(strings.TrimSpace(command))
		req, err := parse(t, args)
		if err != nil {
			fmt.Fprintf(&got, "error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n       "))
			continue
		}
		for _, l := range differ(base, leaves(req)) {
			got.WriteString(here.Replace(l) + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(want) {
		t.Errorf("the requests differ from %s (rewrite it with -update, and read the difference); got:\n%s", path, got.String())
	}
}

// split cuts at blanks outside of single quotes.
func split(s string) []string {
	var out []string
	word, quoted, some := "", false, false
	for _, r := range s {
		switch {
		case r == '\'':
			quoted, some = !quoted, true
		case r == ' ' && !quoted:
			if some || word != "" {
				out = append(out, word)
			}
			word, some = "", false
		default:
			word += string(r)
		}
	}
	if some || word != "" {
		out = append(out, word)
	}
	return out
}

func differ(base, got map[string]string) []string {
	var lines []string
	for k, v := range got {
		if base[k] != v {
			lines = append(lines, k+" = "+v)
		}
	}
	for k := range base {
		if _, ok := got[k]; !ok && !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, k+".") }) {
			lines = append(lines, k+" is gone")
		}
	}
	sort.Strings(lines)
	return lines
}

// TestEveryFlagIsUsed finds a flag whose value reaches no request: it would be
// ignored silently.
func TestEveryFlagIsUsed(t *testing.T) {
	golden, err := os.ReadFile("testdata/flags.txt")
	if err != nil {
		t.Fatal(err)
	}
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	AddFlags(f)
	used := map[string]bool{}
	for line := range strings.Lines(string(golden)) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		for _, arg := range split(command) {
			name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			if strings.HasPrefix(arg, "--") {
				used[name] = true
			} else if strings.HasPrefix(arg, "-") && f.ShorthandLookup(name[:1]) != nil {
				used[f.ShorthandLookup(name[:1]).Name] = true
			}
		}
	}
	// Deprecated and without effect in Docker too.
	used["kernel-memory"] = true
	f.VisitAll(func(fl *pflag.Flag) {
		if !used[fl.Name] {
			t.Errorf("no golden shows what --%s does", fl.Name)
		}
	})
}

func TestProxyEnvironmentComesFirst(t *testing.T) {
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	o := AddFlags(f)
	o.Image = "image"
	if err := f.Parse([]string{"-e", "HTTP_PROXY=mine"}); err != nil {
		t.Fatal(err)
	}
	req, err := o.Container([]string{"HTTP_PROXY=theirs"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"HTTP_PROXY=theirs", "HTTP_PROXY=mine"}; !reflect.DeepEqual(req.Config.Env, want) {
		t.Errorf("got %q, want %q", req.Config.Env, want)
	}
}
