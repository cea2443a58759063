package box

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box/hooks"
	"hezi/internal/box/plan"
)

// hooks plans those that init runs.
func (b *bundle) hooks(spec *Spec) error {
	h, p := spec.Hooks, &b.plan
	state := h.State
	state.Status, state.Pid = "", 0
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	// Init adds what it alone knows; a pid of 0 is left out.
	p.Hooks.State = strings.TrimSuffix(strings.Replace(string(text), `"status":"",`, "", 1), "}")
	p.Hooks.Leave = spec.Namespaces.Mount.Mode == NamespaceNew
	p.RootAt = h.Root
	if p.Hooks.Create, err = planHooks("createContainer", h.CreateContainer); err != nil {
		return err
	}
	p.Hooks.Start, err = planHooks("startContainer", h.StartContainer)
	return err
}

func planHooks(where string, list []specs.Hook) (out []plan.Hook, err error) {
	for _, h := range list {
		one := plan.Hook{Path: h.Path, Args: h.Args, Env: h.Env}
		if len(one.Args) == 0 {
			one.Args = []string{h.Path}
		}
		bad := ""
		switch {
		case !path.IsAbs(h.Path):
			bad = "has no absolute path"
		case slices.ContainsFunc(slices.Concat([]string{h.Path}, h.Args, h.Env), func(s string) bool { return strings.ContainsRune(s, 0) }):
			bad = "has a NUL byte in its arguments or environment"
		case h.Timeout != nil && *h.Timeout <= 0:
			bad = "has a timeout of " + strconv.Itoa(*h.Timeout) + " s, which must be positive"
		}
		if bad != "" {
			return nil, stepError(StepHook, h.Path, nil, "the "+where+" hook "+strconv.Quote(h.Path)+" "+bad)
		}
		if h.Timeout != nil {
			one.Seconds = uint64(*h.Timeout)
		}
		out = append(out, one)
	}
	return out, nil
}

// runtimeHooks runs the hooks of the host's namespaces.
func runtimeHooks(ctx context.Context, spec *Spec, pid int) error {
	h := spec.Hooks
	state := h.State
	state.Status, state.Pid = specs.StateCreating, pid
	err := hooks.Run(ctx, h.Prestart, state, "prestart")
	if err == nil {
		err = hooks.Run(ctx, h.CreateRuntime, state, "createRuntime")
	}
	if err != nil && ctx.Err() == nil {
		return stepError(StepHook, "", nil, err.Error())
	}
	return err
}
