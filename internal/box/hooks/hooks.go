// Package hooks runs the hooks of the runtime's own namespaces: programs on the
// host that an OCI bundle, or a device's CDI specification, has run beside the
// life of a container (runtime-spec, config.md, "POSIX-platform Hooks"). Those of
// the container's namespaces are run by its init.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Run runs programs one after the other, each with the state on standard input
// and the environment of its own alone. The first that fails, or outlasts its
// timeout, is the error, with what it said.
func Run(ctx context.Context, list []specs.Hook, state specs.State, where string) error {
	if len(list) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i := range list {
		if err := run(ctx, &list[i], text); err != nil {
			return fmt.Errorf("the %s hook %s failed: %w", where, list[i].Path, err)
		}
	}
	return nil
}

// maxWords bounds what of a hook's output an error has, in bytes.
const maxWords = 4096

func run(parent context.Context, h *specs.Hook, state []byte) error {
	ctx := parent
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(parent, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // not nil: that would be ours
	cmd.Stdin = bytes.NewReader(state)
	cmd.WaitDelay = time.Second // for what it has left in the background
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with all that it waits for
	words := &limited{}
	cmd.Stdout, cmd.Stderr = words, words
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it has ended well; what it left is not waited for
		return nil
	}
	switch {
	case parent.Err() != nil:
		err = parent.Err()
	case ctx.Err() != nil:
		err = fmt.Errorf("it did not end within %d s", *h.Timeout)
	}
	if err != nil && words.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(words.String()))
	}
	return err
}

// limited keeps the beginning of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), maxWords-l.Len())])
	return len(p), nil
}
