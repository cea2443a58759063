// Package arch holds the architecture: who may import whom and why, what the
// small binaries may link, how long files and functions may be, that every
// package says what it is for, and that the documents agree with each other.
package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rule forbids packages below From to import what is below any of To.
// A package named in Except may all the same.
type rule struct {
	From   string
	To     []string
	Except []string
	Reason string
}

// rules are the import table of ARCHITECTURE.md.
var rules = []rule{
	{From: "hezi/internal/cli", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/cli", "hezi/internal/version"},
		Reason: "the client speaks HTTP and starts in milliseconds: it links no room of the engine"},
	{From: "hezi/internal/cli/ahead", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/cli/ahead", "hezi/internal/version"},
		Reason: "it runs before what it imports would be ready"},
	{From: "hezi/internal/cli", To: []string{"github.com/docker/cli/cli/command", "github.com/containerd/containerd"},
		Reason: "they cost more at start than the client's whole budget"},
	{From: "hezi/internal/api", To: []string{"hezi/internal/keeper", "hezi/internal/box", "hezi/internal/store", "hezi/internal/snapshot", "hezi/internal/daemon", "hezi/internal/cli"},
		Reason: "the API translates and holds no policy"},
	{From: "hezi/internal/snapshot", To: []string{"hezi/internal/keeper", "hezi/internal/network", "hezi/internal/volume", "hezi/internal/logs", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon"},
		Reason: "resources do not know each other: engine brings them together"},
	{From: "hezi/internal/network", To: []string{"hezi/internal/keeper", "hezi/internal/snapshot", "hezi/internal/volume", "hezi/internal/logs", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon", "hezi/internal/image", "hezi/internal/box"},
		Reason: "resources do not know each other: engine brings them together"},
	{From: "hezi/internal/volume", To: []string{"hezi/internal/keeper", "hezi/internal/snapshot", "hezi/internal/network", "hezi/internal/logs", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon", "hezi/internal/image"},
		Reason: "resources do not know each other: engine brings them together"},
	{From: "hezi/internal/logs", To: []string{"hezi/internal/keeper", "hezi/internal/snapshot", "hezi/internal/network", "hezi/internal/volume", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon", "hezi/internal/image", "net/http"},
		Reason: "the keeper links the log writers, and the keeper is small"},
	{From: "hezi/internal/image", To: []string{"hezi/internal/keeper", "hezi/internal/box", "hezi/internal/network", "hezi/internal/volume", "hezi/internal/logs", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon"},
		Reason: "resources do not know each other: engine brings them together"},
	{From: "hezi/internal/keeper", To: []string{"hezi/internal/network", "hezi/internal/snapshot", "hezi/internal/volume", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon", "hezi/internal/image", "hezi/internal/store", "net/http", "github.com/containerd/containerd", "go.etcd.io"},
		Reason: "the keeper must be too small to fail"},
	{From: "hezi/internal/box", To: []string{"hezi/internal/keeper", "hezi/internal/network", "hezi/internal/snapshot", "hezi/internal/volume", "hezi/internal/logs", "hezi/internal/engine", "hezi/internal/api", "hezi/internal/daemon", "hezi/internal/image", "hezi/internal/store", "net/http", "github.com/containerd/containerd", "go.etcd.io"},
		Reason: "the box is the kernel's room and runs in the keeper and in init"},
	{From: "hezi/internal/engine", To: []string{"hezi/internal/api", "hezi/internal/daemon", "hezi/internal/cli", "hezi/internal/keeper/server", "net/http"},
		Reason: "the engine is below the API and talks to the keeper by its client only"},
	{From: "hezi/internal/keeper", To: []string{"hezi/internal/box/scope"}, Reason: "the keeper speaks no D-Bus (docs/adr/0006-systemd-driver.md)"},
	{From: "hezi/internal/runtimes", To: []string{"hezi/internal/box/scope"}, Reason: "the keeper speaks no D-Bus (docs/adr/0006-systemd-driver.md)"},
	{From: "hezi/internal/relay", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/relay"}, Reason: "it carries bytes and knows no container"},
	{From: "hezi/internal/probe", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/probe"}, Reason: "it reads what is hostile and knows nothing"},
	{From: "hezi/internal/dockerroot", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/dockerroot", "hezi/internal/image/archive"},
		Reason: "it reads what may be hostile, in a process that knows no engine"},
	{From: "hezi/internal/oci", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/oci", "hezi/internal/box"},
		Reason: "the OCI command is the box alone, without an engine"},
	{From: "hezi/internal/runtimes", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/runtimes", "hezi/internal/box"},
		Reason: "it runs in the keeper, and stands for the box where another runtime makes it"},
	{From: "hezi/internal/timeline", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/timeline"}, Reason: "the keeper and the box link it, and it knows no work"},
	{From: "hezi/internal/store", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/store"}, Reason: "the store knows no resource"},
	{From: "hezi/internal/events", To: []string{"hezi/internal"}, Except: []string{"hezi/internal/events"}, Reason: "events know no resource"},
	{From: "hezi/cmd", To: []string{"hezi/internal/engine", "hezi/internal/image", "hezi/internal/network", "hezi/internal/api"},
		Reason: "a main only calls its room"},
}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Imports,Deps"}, patterns...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func TestImports(t *testing.T) {
	packages := list(t, "./...")
	if len(packages) < 15 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, p := range packages {
		for _, r := range rules {
			if !below(p.ImportPath, r.From) {
				continue
			}
			for _, imp := range p.Imports {
				forbidden := slices.ContainsFunc(r.To, func(to string) bool { return below(imp, to) && !below(imp, r.From) })
				allowed := slices.ContainsFunc(r.Except, func(x string) bool { return below(imp, x) })
				if forbidden && !allowed {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.Reason)
				}
			}
		}
	}
}

// TestSmallBinaries fails when the client or the keeper start to link what
// makes them slow or large.
func TestSmallBinaries(t *testing.T) {
	never := map[string][]string{
		"./cmd/hezi":        {"github.com/containerd/containerd", "go.etcd.io", "google.golang.org/grpc", "github.com/vishvananda", "hezi/internal/engine", "hezi/internal/keeper", "hezi/internal/image", "hezi/internal/network"},
		"./cmd/hezi-keeper": {"net/http", "github.com/containerd/containerd", "go.etcd.io", "google.golang.org", "github.com/moby/moby/client", "github.com/spf13"},
		"./cmd/hezi-init":   {"net/http", "net", "github.com/containerd/containerd", "go.etcd.io", "google.golang.org", "github.com/moby/moby", "github.com/spf13", "github.com/cilium"},
	}
	for path, forbidden := range never {
		for _, p := range list(t, path) {
			for _, dep := range p.Deps {
				if i := slices.IndexFunc(forbidden, func(f string) bool { return below(dep, f) }); i >= 0 {
					t.Errorf("%s links %s: it must stay small", path, dep)
				}
			}
		}
	}
}

// maxInit is what the client's packages may allocate before main, in bytes: it
// is paid at every call. One package that compiles regular expressions when it
// is linked is enough to pass it (docs/adr/0004-client-start.md).
const maxInit = 150_000

func TestClientStart(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "hezi")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "./cmd/hezi")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := exec.Command(bin, "--version")
	run.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	total, worst, most := 0, "", 0
	for line := range strings.Lines(string(out)) {
		var name string
		var at, clock float64
		var n int
		if _, err := fmt.Sscanf(line, "init %s @%f ms, %f ms clock, %d bytes", &name, &at, &clock, &n); err != nil {
			continue
		}
		total += n
		if n > most {
			worst, most = name, n
		}
	}
	if total == 0 {
		t.Fatalf("the runtime told nothing: %s", out)
	}
	if total > maxInit {
		t.Errorf("hezi allocates %d bytes before main, more than %d; most of it in %s (%d)", total, maxInit, worst, most)
	}
}

// TestAhead holds the client's shortest way, which works because it is
// initialised before nearly everything (docs/adr/0007-ahead-of-the-libraries.md).
func TestAhead(t *testing.T) {
	may := []string{"hezi/internal/version", "os", "strconv", "syscall", "time", "unicode/utf8"}
	for _, p := range list(t, "./internal/cli/ahead") {
		for _, i := range p.Imports {
			if !slices.Contains(may, i) {
				t.Errorf("%s imports %s: it may import %v, which need few others to be initialised first", p.ImportPath, i, may)
			}
		}
	}
}

// long lists packages, files and functions over the budget, with the reason.
var long = map[string]string{
	"hezi/internal/cli":           "one file for each of a hundred commands",
	"hezi/internal/engine":        "the life cycle is one lock and one table of records; health, usage, walls and what else stands alone is below it",
	"hezi/internal/keeper/server": "what holds a container is one state",
	"hezi/internal/image":         "pull, push, save, load, check and collect work on one store; what stands alone is in the packages below it",
}

const (
	maxFile     = 800
	maxFunction = 120
	maxPackage  = 5000
	maxMethods  = 40
)

func TestBudgets(t *testing.T) {
	for _, p := range list(t, "./cmd/...", "./internal/...") {
		fset := token.NewFileSet()
		lines := 0
		docs := 0
		methods := map[string]int{}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			rel := strings.TrimPrefix(p.ImportPath, "hezi/") + "/" + name
			if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
				docs++
			}
			if ast.IsGenerated(f) {
				continue
			}
			n := fset.File(f.Pos()).LineCount()
			lines += n
			if n > maxFile && long[rel] == "" {
				t.Errorf("%s has %d lines, more than %d", rel, n, maxFile)
			}
			checkFunctions(t, fset, f, rel, methods)
		}
		if docs != 1 {
			t.Errorf("%s has %d package docs, not one", p.ImportPath, docs)
		}
		if lines > maxPackage && long[p.ImportPath] == "" {
			t.Errorf("%s has %d lines, more than %d", p.ImportPath, lines, maxPackage)
		}
		for typ, n := range methods {
			if n > maxMethods {
				t.Errorf("%s.%s has %d methods, more than %d", p.ImportPath, typ, n, maxMethods)
			}
		}
	}
}

func checkFunctions(t *testing.T, fset *token.FileSet, f *ast.File, rel string, methods map[string]int) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		id := fmt.Sprintf("%s:%s", rel, fn.Name.Name)
		if n > maxFunction && long[id] == "" {
			t.Errorf("%s has %d lines, more than %d", id, n, maxFunction)
		}
		if fn.Recv == nil || len(fn.Recv.List) == 0 {
			continue
		}
		typ := fn.Recv.List[0].Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		if ident, ok := typ.(*ast.Ident); ok {
			methods[ident.Name]++
		}
	}
}

func TestNoDrawers(t *testing.T) {
	for _, p := range list(t, "./...") {
		switch filepath.Base(p.ImportPath) {
		case "util", "utils", "common", "helpers", "manager", "misc", "types":
			t.Errorf("%s: a room is named by what it holds", p.ImportPath)
		}
	}
}
