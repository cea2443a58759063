package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// runHooks runs programs of the bundle one after the other, each with the state
// on standard input. They are programs of whoever made the bundle, on the host.
func runHooks(list []specs.Hook, state specs.State, where string) error {
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range list {
		if err := runHook(&h, text); err != nil {
			return fmt.Errorf("the %s hook %s failed: %w", where, h.Path, err)
		}
	}
	return nil
}

// maxHookWords bounds what of a hook's output an error has, in bytes.
const maxHookWords = 4096

func runHook(h *specs.Hook, state []byte) error {
	ctx := context.Background()
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // not nil: that would be ours
	cmd.Stdin = bytes.NewReader(state)
	cmd.WaitDelay = time.Second // for what it has left in the background
	words := &limited{}
	cmd.Stdout, cmd.Stderr = words, words
	err := cmd.Run()
	if ctx.Err() != nil {
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
	l.Buffer.Write(p[:min(len(p), maxHookWords-l.Len())])
	return len(p), nil
}
