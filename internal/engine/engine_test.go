package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

func TestTransitions(t *testing.T) {
	if err := transition(container.StateCreated, container.StateRunning); err != nil {
		t.Error(err)
	}
	var illegal *TransitionError
	if err := transition(container.StateExited, container.StatePaused); !errors.As(err, &illegal) || !errdefs.IsConflict(err) {
		t.Error(err)
	}
}

func TestDue(t *testing.T) {
	policy := func(name container.RestartPolicyMode, most int) *container.HostConfig {
		return &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: name, MaximumRetryCount: most}}
	}
	at := time.Now()
	for name, c := range map[string]struct {
		r    record
		want bool
	}{
		"never started":         {record{State: container.StateCreated, HostConfig: policy("always", 0)}, false},
		"in its back-off":       {record{State: container.StateRestarting, Started: at, HostConfig: policy("on-failure", 1), Restarts: 1}, true},
		"no":                    {record{State: container.StateExited, Started: at, Exit: 1, HostConfig: policy("no", 0)}, false},
		"always, stopped":       {record{State: container.StateExited, Started: at, Stopped: true, HostConfig: policy("always", 0)}, true},
		"unless-stopped":        {record{State: container.StateExited, Started: at, HostConfig: policy("unless-stopped", 0)}, true},
		"stopped":               {record{State: container.StateExited, Started: at, Stopped: true, HostConfig: policy("unless-stopped", 0)}, false},
		"on-failure, no limit":  {record{State: container.StateExited, Started: at, Exit: 1, Restarts: 50, HostConfig: policy("on-failure", 0)}, true},
		"on-failure, a success": {record{State: container.StateExited, Started: at, HostConfig: policy("on-failure", 0)}, false},
		"on-failure:2, one":     {record{State: container.StateExited, Started: at, Exit: 1, Restarts: 1, HostConfig: policy("on-failure", 2)}, true},
		"on-failure:2, both":    {record{State: container.StateExited, Started: at, Exit: 1, Restarts: 2, HostConfig: policy("on-failure", 2)}, false},
	} {
		if c.r.due() != c.want {
			t.Errorf("%s: %t, want %t", name, c.r.due(), c.want)
		}
	}
}
