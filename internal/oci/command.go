package oci

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const usage = `usage: hezi-keeper oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] [--systemd-cgroup] COMMAND

create  [--bundle DIR] [--console-socket SOCKET] [--pid-file FILE] ID   make a container that waits for start
start   ID                                                              let its program run
run     [-d] [create's options] [--keep] ID                             create, start, wait and delete
exec    [--cgroup [<controller>:]<cgroup>] [options] ID COMMAND [ARG...]
                                                                        run one more program in it
kill    [--all] ID [SIGNAL]                                             signal its process, or all of it
delete  [--force] ID                                                    forget what has stopped
state   ID          pause ID        resume ID                           
list    [-q] [--format table|json]      ps [--format table|json] ID
update  [--resources FILE|-] ID                                         change its limits
spec    [--bundle DIR]                                                  write a config.json to begin with
features                                                                what there is, as JSON
`

// texts is a flag that can be given more than once.
type texts []string

func (t *texts) String() string     { return strings.Join(*t, ",") }
func (t *texts) Set(v string) error { *t = append(*t, v); return nil }

// Run runs the command line and returns the exit code.
func Run(version string, args []string) int {
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) // what the caller left open is no hook's; Linux before 5.11 cannot
	r := &call{root: "/run/hezi-oci", version: version}
	fs := newFlags("oci")
	fs.StringVar(&r.root, "root", r.root, "folder of the state")
	fs.StringVar(&r.log.file, "log", "", "file that errors are written to")
	fs.StringVar(&r.log.format, "log-format", "text", "text or json")
	fs.BoolVar(&r.log.verbose, "debug", false, "write down what is done, too")
	fs.BoolVar(&r.systemd, "systemd-cgroup", false, "have systemd make the cgroups: the bundle's cgroupsPath is SLICE:PREFIX:NAME")
	rootless := fs.String("rootless", "auto", "not supported")
	show := fs.Bool("version", false, "print the version")
	fs.BoolVar(show, "v", false, "print the version")
	err := fs.Parse(args)
	code := 1
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return 0
	case err != nil:
	case r.log.format != "text" && r.log.format != "json":
		err = fmt.Errorf("unknown log-format %q: write text or json", r.log.format)
	case *show:
		fmt.Printf("hezi-keeper oci version %s\nspec: %s\n", version, specs.Version)
		return 0
	case *rootless == "true":
		err = errors.New("--rootless is not supported by this runtime: it needs root")
	case fs.NArg() == 0:
		fmt.Fprint(os.Stderr, usage)
		return 1
	default:
		r.debug("called with %q", args)
		code, err = r.command(fs.Arg(0), fs.Args()[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return 0
	}
	if err != nil {
		report := "hezi-keeper oci: " + err.Error()
		fmt.Fprintln(os.Stderr, report)
		if lerr := r.log.write("error", err.Error()); lerr != nil {
			fmt.Fprintln(os.Stderr, "hezi-keeper oci: "+lerr.Error())
		}
	}
	return code
}

func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// verb is a command: its flags are defined before they are parsed, then it runs.
type verb func(r *call, fs *flag.FlagSet) func(args []string) (int, error)

var verbs = map[string]verb{
	"create": (*call).createVerb, "run": (*call).runVerb, "exec": (*call).execVerb, "delete": (*call).deleteVerb,
	"kill": (*call).killVerb, "list": (*call).listVerb, "ps": (*call).psVerb, "update": (*call).updateVerb, "spec": (*call).specVerb,
	"start":  simple(func(r *call, id string) error { return r.start(id) }),
	"pause":  simple(func(r *call, id string) error { return r.freeze(id, true) }),
	"resume": simple(func(r *call, id string) error { return r.freeze(id, false) }),
	"state":  simple((*call).state),
	"features": func(*call, *flag.FlagSet) func([]string) (int, error) {
		return func([]string) (int, error) { return 0, printJSON(supported()) }
	},
}

func (r *call) command(name string, args []string) (int, error) {
	v, ok := verbs[name]
	if !ok {
		return 1, fmt.Errorf("unknown command %q: see hezi-keeper oci --help", name)
	}
	fs := newFlags(name)
	run := v(r, fs)
	if err := fs.Parse(args); err != nil {
		return 1, err
	}
	code, err := run(fs.Args())
	if err != nil && code == 0 {
		code = 1
	}
	return code, err
}

func simple(do func(r *call, id string) error) verb {
	return func(r *call, fs *flag.FlagSet) func([]string) (int, error) {
		return func(args []string) (int, error) {
			if len(args) != 1 {
				return 1, fmt.Errorf("%s: exactly 1 argument, the container's id, is needed", fs.Name())
			}
			return 0, do(r, args[0])
		}
	}
}

// making are the flags of create and run.
type making struct {
	bundle, console, pidFile string
	preserve                 int
}

func makingFlags(fs *flag.FlagSet) *making {
	m := &making{}
	for _, name := range []string{"bundle", "b"} {
		fs.StringVar(&m.bundle, name, ".", "")
	}
	fs.StringVar(&m.console, "console-socket", "", "")
	fs.StringVar(&m.pidFile, "pid-file", "", "")
	fs.IntVar(&m.preserve, "preserve-fds", 0, "")
	fs.Bool("no-pivot", false, "") // the root is entered as containerd's snapshots need it, always
	fs.Bool("no-new-keyring", false, "")
	return m
}

func (m *making) check(fs *flag.FlagSet, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s: exactly 1 argument, the container's id, is needed", fs.Name())
	}
	if m.preserve != 0 {
		return errors.New("--preserve-fds is not supported by this runtime: no descriptor of the host crosses into a container")
	}
	var refused error
	fs.Visit(func(f *flag.Flag) {
		if (f.Name == "no-pivot" || f.Name == "no-new-keyring") && f.Value.String() == "true" {
			refused = fmt.Errorf("--%s is not supported by this runtime", f.Name)
		}
	})
	return refused
}

func (r *call) createVerb(fs *flag.FlagSet) func([]string) (int, error) {
	m := makingFlags(fs)
	return func(args []string) (int, error) {
		if err := m.check(fs, args); err != nil {
			return 1, err
		}
		_, _, err := r.create(args[0], m.bundle, m.pidFile, m.console, true)
		return 0, err
	}
}

func (r *call) runVerb(fs *flag.FlagSet) func([]string) (int, error) {
	m := makingFlags(fs)
	var detach, keep bool
	fs.BoolVar(&detach, "detach", false, "")
	fs.BoolVar(&detach, "d", false, "")
	fs.BoolVar(&keep, "keep", false, "")
	return func(args []string) (int, error) {
		if err := m.check(fs, args); err != nil {
			return 1, err
		}
		id := args[0]
		_, proc, err := r.create(id, m.bundle, m.pidFile, m.console, detach)
		if err != nil {
			return 1, err
		}
		defer proc.PidFD.Close()
		if err := r.start(id); err != nil {
			return 1, errors.Join(err, r.remove(id, true))
		}
		if detach {
			return 0, nil
		}
		code := attend(proc)
		if keep {
			return code, nil
		}
		return code, r.remove(id, true)
	}
}

func (r *call) execVerb(fs *flag.FlagSet) func([]string) (int, error) {
	o := &execOptions{}
	for _, f := range []struct {
		to          *string
		name, short string
	}{{&o.process, "process", "p"}, {&o.user, "user", "u"}, {&o.console, "console-socket", ""}, {&o.pidFile, "pid-file", ""}, {&o.cwd, "cwd", ""}, {&o.cgroup, "cgroup", ""}, {&o.label, "process-label", ""}, {&o.apparmor, "apparmor", ""}} {
		fs.StringVar(f.to, f.name, "", "")
		if f.short != "" {
			fs.StringVar(f.to, f.short, "", "")
		}
	}
	for _, f := range []struct {
		to          *bool
		name, short string
	}{{&o.terminal, "tty", "t"}, {&o.detach, "detach", "d"}, {&o.noNewPrivileges, "no-new-privs", ""}, {&o.ignorePaused, "ignore-paused", ""}} {
		fs.BoolVar(f.to, f.name, false, "")
		if f.short != "" {
			fs.BoolVar(f.to, f.short, false, "")
		}
	}
	fs.Var(&o.env, "env", "")
	fs.Var(&o.env, "e", "")
	fs.Var(&o.caps, "cap", "")
	fs.Var(&o.caps, "c", "")
	fs.Var(&o.groups, "additional-gids", "")
	fs.Var(&o.groups, "g", "")
	return func(args []string) (int, error) {
		if len(args) == 0 {
			return 255, errors.New("exec: a container is needed")
		}
		return r.exec(args[0], o, args[1:])
	}
}

func (r *call) deleteVerb(fs *flag.FlagSet) func([]string) (int, error) {
	var force bool
	fs.BoolVar(&force, "force", false, "")
	fs.BoolVar(&force, "f", false, "")
	return simple(func(r *call, id string) error { return r.remove(id, force) })(r, fs)
}

func (r *call) killVerb(fs *flag.FlagSet) func([]string) (int, error) {
	var all bool
	fs.BoolVar(&all, "all", false, "")
	fs.BoolVar(&all, "a", false, "")
	return func(args []string) (int, error) {
		if len(args) < 1 || len(args) > 2 {
			return 1, errors.New("kill: a container and at most one signal are needed")
		}
		signal := unix.SIGTERM
		if len(args) == 2 {
			var err error
			if signal, err = parseSignal(args[1]); err != nil {
				return 1, err
			}
		}
		return 0, r.kill(args[0], signal, all)
	}
}

func parseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	if s := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (r *call) state(id string) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	return printJSON(c.report())
}

func formatFlag(fs *flag.FlagSet) *string {
	format := fs.String("format", "table", "")
	fs.StringVar(format, "f", "table", "")
	return format
}

func (r *call) listVerb(fs *flag.FlagSet) func([]string) (int, error) {
	format := formatFlag(fs)
	var quiet bool
	fs.BoolVar(&quiet, "quiet", false, "")
	fs.BoolVar(&quiet, "q", false, "")
	return func([]string) (int, error) {
		list, err := r.all()
		if err != nil {
			return 1, err
		}
		switch {
		case quiet:
			for _, c := range list {
				fmt.Println(c.ID)
			}
		case *format == "json":
			return 0, json.NewEncoder(os.Stdout).Encode(list)
		case *format == "table":
			w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
			fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\n")
			for _, c := range list {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", c.ID, c.Pid, c.Status, c.Bundle, c.Created.Format(time.RFC3339Nano))
			}
			return 0, w.Flush()
		default:
			return 1, fmt.Errorf("invalid format option %q: write table or json", *format)
		}
		return 0, nil
	}
}

func (r *call) psVerb(fs *flag.FlagSet) func([]string) (int, error) {
	format := formatFlag(fs)
	return func(args []string) (int, error) {
		if len(args) == 0 {
			return 1, errors.New("ps: a container is needed")
		}
		c, err := r.open(args[0])
		if err != nil {
			return 1, err
		}
		g, err := c.group()
		c.close()
		if err != nil {
			return 1, err
		}
		pids, err := g.Procs()
		if err != nil {
			return 1, err
		}
		slices.Sort(pids)
		if *format == "json" {
			return 0, json.NewEncoder(os.Stdout).Encode(pids)
		}
		if *format != "table" {
			return 1, fmt.Errorf("invalid format option %q: write table or json", *format)
		}
		if len(pids) == 0 {
			return 0, nil
		}
		list := make([]string, len(pids))
		for i, pid := range pids {
			list[i] = strconv.Itoa(pid)
		}
		ps := exec.Command("ps", append(slices.Concat(args[1:], []string{"-f", "-p"}), strings.Join(list, ","))...)
		ps.Stdout, ps.Stderr = os.Stdout, os.Stderr
		return 0, ps.Run()
	}
}

func (r *call) updateVerb(fs *flag.FlagSet) func([]string) (int, error) {
	var file string
	fs.StringVar(&file, "resources", "", "")
	fs.StringVar(&file, "r", "", "")
	return func(args []string) (int, error) {
		if len(args) != 1 || file == "" {
			return 1, errors.New("update: a container and --resources FILE (- for standard input) are needed")
		}
		in := io.Reader(os.Stdin)
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return 1, err
			}
			defer f.Close()
			in = f
		}
		wanted := &specs.LinuxResources{}
		if err := decode(in, wanted); err != nil {
			return 1, err
		}
		limits, err := resources(wanted)
		if err != nil {
			return 1, err
		}
		c, err := r.open(args[0])
		if err != nil {
			return 1, err
		}
		defer c.close()
		return 0, c.limit(context.Background(), limits)
	}
}

func (r *call) specVerb(fs *flag.FlagSet) func([]string) (int, error) {
	var bundle string
	fs.StringVar(&bundle, "bundle", ".", "")
	fs.StringVar(&bundle, "b", ".", "")
	return func([]string) (int, error) {
		name := filepath.Join(bundle, "config.json")
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, os.ErrExist) {
			return 1, fmt.Errorf("file %s exists: remove it first", name)
		}
		if err != nil {
			return 1, err
		}
		e := json.NewEncoder(f)
		e.SetIndent("", "\t")
		return 0, errors.Join(e.Encode(example()), f.Close())
	}
}
