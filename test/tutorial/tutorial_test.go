// Package tutorial types the commands of a usual introduction to Docker, as they
// stand there, into the real engine: with hezi and with Docker's own client.
package tutorial

import (
	_ "embed"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"hezi/test/harness"
)

//go:embed testdata/desktop.sh
var desktopScript string

var recipes = []harness.Recipe{
	{Name: "nginx", Packages: []string{"nginx-light"}, Changes: []string{"EXPOSE 80", `CMD ["nginx", "-g", "daemon off;"]`}},
	{
		Name:     "desktop",
		Packages: []string{"xvfb", "x11vnc", "novnc", "icewm", "xterm"},
		Then: "ln -s vnc.html /usr/share/novnc/index.html\n" +
			"cat >/usr/local/bin/desktop <<'END'\n" + desktopScript + "END\nchmod +x /usr/local/bin/desktop\n",
		Changes: []string{"EXPOSE 80 5900", `CMD ["desktop"]`},
	},
}

// host is where the registry is: nothing there is trusted by itself.
const host = "192.0.2.80"

// lessons build on each other.
var lessons = []struct {
	name  string
	ports bool // publishes the host's ports that the introductions name
}{{"registries", false}, {"shell", false}, {"web", true}, {"commit", false}, {"desktop", true}}

func TestTutorial(t *testing.T) {
	harness.ExtraAddress(t, host)
	registry := harness.StockedRegistry(t, &harness.RegistryOptions{Address: host}, recipes...)
	var ports sync.Mutex
	for _, client := range []string{"hezi", "docker"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			e := harness.Start(t)
			for _, lesson := range lessons {
				ok := t.Run(lesson.name, func(t *testing.T) {
					if lesson.ports {
						ports.Lock()
						defer ports.Unlock()
					}
					teach(t, e, client, registry, lesson.name)
				})
				if !ok {
					t.FailNow()
				}
			}
		})
	}
}

// TestStorage: the overlay cannot be mounted, and another storage driver is taken.
func TestStorage(t *testing.T) {
	for _, client := range []string{"hezi", "docker"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			e := harness.Start(t)
			teach(t, e, client, "", "storage")
		})
	}
}

func teach(t *testing.T, e *harness.Engine, client, registry, lesson string) {
	t.Helper()
	e.RunScripts(t, testscript.Params{
		Files: []string{filepath.Join("testdata", lesson+".txtar")},
		Setup: func(env *testscript.Env) error {
			env.Values["t"] = env.T() // *testing.T below testscript.Run
			env.Setenv("CLIENT", client)
			env.Setenv("MIRROR", registry)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// docker ARGS...: the client that is tested.
			"docker": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec(client, args...)
				if (err != nil) != neg {
					ts.Fatalf("%s %s: %v", client, strings.Join(args, " "), err)
				}
			},
			// restart: what `systemctl restart docker` does to the engine.
			"restart": func(ts *testscript.TestScript, neg bool, args []string) {
				e.Down()
				err := e.Up()
				if (err != nil) != neg {
					ts.Fatalf("restart: %v", err)
				}
				if err != nil {
					_, _ = ts.Stderr().Write([]byte(err.Error()))
				}
			},
			// typing DIALOGUE docker ARGS...: the client on a terminal.
			"typing": func(ts *testscript.TestScript, neg bool, args []string) {
				typing(ts, e, client, neg, args)
			},
			// desktop URL PASSWORD WIDTHxHEIGHT: a desktop in a browser.
			"desktop": func(ts *testscript.TestScript, neg bool, args []string) {
				desktop(ts.Value("t").(testing.TB), args[0], args[1], args[2])
			},
		},
	})
}

// typing holds a dialogue: lines that begin with > are typed, those with < are
// waited for, and detach is its keys.
func typing(ts *testscript.TestScript, e *harness.Engine, client string, neg bool, args []string) {
	t := ts.Value("t").(testing.TB)
	cmd := exec.Command(client, args[2:]...)
	if client == "hezi" {
		cmd = exec.Command(filepath.Join(harness.Bin(), "hezi"), args[2:]...)
	}
	cmd.Env = e.Env()
	s := harness.Terminal(t, cmd)
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		line = strings.TrimSuffix(line, "\n")
		switch sort, text, _ := strings.Cut(line, " "); sort {
		case ">":
			s.Type(t, text+"\n")
		case "<":
			s.Expect(t, text)
		case "detach":
			s.Type(t, "\x10\x11") // ctrl-p ctrl-q
		default:
			ts.Fatalf("%s: %q is neither >, < nor detach", args[0], line)
		}
	}
	if code := s.Wait(t); (code != 0) != neg {
		ts.Fatalf("%s %s: exit code %d", client, strings.Join(args[2:], " "), code)
	}
}
