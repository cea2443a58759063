package server

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// Command is what cmd/hezi-keeper runs.
type Command struct {
	Version    string
	NewRuntime func(identity string) (Runtime, error)
	// NewOthers, where it is not nil, is for containers of other OCI runtimes.
	NewOthers  func(execRoot, identity string, r Runtime, log *slog.Logger) (Others, error)
	OpenCgroup OpenCgroup
}

// Descriptors of `serve`, set up by the holder.
const (
	fdListener = 3
	fdLink     = 4
)

type flags struct {
	root, identity, binary string
	detach, rejoin         bool
	readyFD, stateFD       int
}

const usage = "usage: hezi-keeper hold|serve|check-state|version (hezid starts it; it is not for hands)"

// Run runs the command line and returns the exit code.
func (c Command) Run(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	var f flags
	fs := flag.NewFlagSet("hezi-keeper "+args[0], flag.ContinueOnError)
	fs.StringVar(&f.root, "root", "/run/hezi", "exec root")
	fs.StringVar(&f.identity, "identity", "", "the engine's identity")
	fs.StringVar(&f.binary, "binary", "", "hezi-keeper's path")
	fs.BoolVar(&f.detach, "detach", false, "go to the background and return once the keeper serves")
	fs.BoolVar(&f.rejoin, "rejoin", false, "hold for a keeper that runs already")
	fs.IntVar(&f.readyFD, "ready", -1, "descriptor to write ready to")
	fs.IntVar(&f.stateFD, "state", -1, "descriptor of a replaced keeper's state")
	if err := fs.Parse(args[1:]); err != nil {
		return 2
	}
	if f.binary == "" {
		if exe, err := os.Executable(); err == nil {
			f.binary = exe
		}
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var err error
	switch args[0] {
	case "hold":
		err = c.hold(f, logger)
	case "serve":
		err = c.serve(f, logger)
	case "check-state":
		err = checkState(f.stateFD)
	case "version", "--version":
		fmt.Println(c.Version)
	default:
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hezi-keeper "+args[0]+": "+err.Error())
		return 1
	}
	return 0
}

func (c Command) hold(f flags, logger *slog.Logger) error {
	args := []string{"hold", "--root", f.root, "--identity", f.identity, "--binary", f.binary}
	if f.detach {
		return Detach(append(args, "--ready", "3"))
	}
	debug.SetGCPercent(20)
	o := HolderOptions{Root: f.root, Identity: f.identity, Binary: f.binary, Logger: logger, Rejoin: f.rejoin}
	var ready *os.File
	if f.readyFD >= 0 {
		unix.CloseOnExec(f.readyFD)
		ready = os.NewFile(uintptr(f.readyFD), "ready")
		if err := keeper.LeaveCgroup(f.identity); err != nil {
			logger.Warn("leave the cgroup of whoever started the holder", "error", err)
		}
		o.Ready = func() { ready.WriteString("ready"); ready.Close() }
	}
	err := RunHolder(o)
	if err != nil && o.Ready != nil && ready != nil {
		fmt.Fprint(ready, err) // fails harmlessly once ready was said
	}
	return err
}

func (c Command) serve(f flags, logger *slog.Logger) error {
	debug.SetGCPercent(40)
	lfd, kfd := fdListener, fdLink
	var st *state
	if f.stateFD >= 0 {
		var err error
		if st, err = readState(f.stateFD); err != nil {
			return err
		}
		lfd, kfd = st.ListenerFD, st.LinkFD
		for _, fd := range st.fds() {
			unix.CloseOnExec(fd)
		}
	}
	unix.CloseOnExec(lfd)
	unix.CloseOnExec(kfd)
	ul, err := listenerOf(lfd)
	if err != nil {
		return err
	}
	link, err := keeper.FileConn(kfd)
	if err != nil {
		return err
	}
	rt, err := c.NewRuntime(f.identity)
	if err != nil {
		return err
	}
	var others Others
	if c.NewOthers != nil {
		if others, err = c.NewOthers(f.root, f.identity, rt, logger); err != nil {
			return err
		}
	}
	s := New(Options{Runtime: rt, Others: others, OpenCgroup: c.OpenCgroup, Logger: logger, Version: c.Version,
		Root: f.root, Identity: f.identity, Binary: f.binary}, ul, link)
	if st != nil {
		err = s.handover.resume(st)
	} else {
		err = s.TakeBack()
	}
	if err != nil {
		return err
	}
	return s.Serve(context.Background())
}

func listenerOf(fd int) (*net.UnixListener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("serve is started by hold: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("descriptor %d is no unix socket", fd)
	}
	ul.SetUnlinkOnClose(false)
	return ul, nil
}
