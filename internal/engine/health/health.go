// Package health is what is known of a health check without asking anybody:
// what a container's configuration means, what a result makes of its state, and
// when the next check is due. Rules, defaults and texts are Docker's (moby,
// daemon/health.go), but for checks by HTTP and TCP and for actions.
package health

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Kinds of a check: the first word of Healthcheck.Test.
const (
	None    = "NONE"
	Program = "CMD"
	Shell   = "CMD-SHELL"
	HTTP    = "HTTP" // Hezi's own: a URL, or PORT/PATH
	TCP     = "TCP"  // Hezi's own: HOST:PORT, or PORT
)

// ActionLabel is the label of a container that holds the action. It is a label
// so that every client can give it.
const ActionLabel = "hezi.health.action"

// Actions when a container becomes unhealthy.
const (
	ActNone    = "none"
	ActRestart = "restart"
	ActStop    = "stop"
	ActKill    = "kill"
)

const (
	// MaxOutput is what is kept of a check's output, in bytes; what is cut off
	// becomes "...".
	MaxOutput = 4096
	maxLog    = 5 // results kept

	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
)

// Check is a container's health check, complete.
type Check struct {
	Kind    string
	Command []string // of Program and Shell
	Target  string   // of HTTP: a URL; of TCP: host and port
	Action  string

	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
}

// Of is the check that a configuration asks for, or nil.
func Of(c *container.Config) *Check {
	h := c.Healthcheck
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	k := &Check{
		Kind: h.Test[0], Action: c.Labels[ActionLabel], StartPeriod: h.StartPeriod, Interval: or(h.Interval, defaultInterval),
		Timeout: or(h.Timeout, defaultTimeout), StartInterval: or(h.StartInterval, defaultStartInterval), Retries: h.Retries,
	}
	if k.Retries <= 0 {
		k.Retries = defaultRetries
	}
	switch k.Kind {
	case Program:
		k.Command = h.Test[1:]
	case Shell:
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		k.Command = slices.Concat(shell, h.Test[1:])
	case HTTP:
		k.Target, _ = address(h.Test[1]) // Validate has refused others
	case TCP:
		k.Target, _ = endpoint(h.Test[1])
	default:
		return nil
	}
	return k
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Validate says what is wrong with a configuration's health check. remove says
// that the container goes when it ends (--rm).
func Validate(c *container.Config, remove bool) error {
	switch action := c.Labels[ActionLabel]; action {
	case "", ActNone, ActStop, ActKill:
	case ActRestart:
		if remove {
			return invalid("conflicting options: --rm and --health-action %s (the label %s): a container that is removed when it ends is not started again", action, ActionLabel)
		}
	default:
		return invalid("invalid value %q of --health-action (the label %s): write none, restart, stop or kill", action, ActionLabel)
	}
	h := c.Healthcheck
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.value != 0 && d.value < container.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) == 0 {
		return nil
	}
	return validateTest(h.Test)
}

func validateTest(test []string) error {
	args := test[1:]
	switch test[0] {
	case None:
		return nil
	case Program, Shell:
		if len(args) == 0 || args[0] == "" {
			return invalid("the healthcheck has no command: write one after %s", test[0])
		}
		return nil
	case HTTP, TCP:
		if len(args) != 1 {
			return invalid("a healthcheck of the type %s has one argument, not %d", test[0], len(args))
		}
		check := address
		if test[0] == TCP {
			check = endpoint
		}
		_, err := check(args[0])
		return err
	}
	return invalid("Unknown healthcheck type '%s' (expected 'CMD'): write CMD, CMD-SHELL, HTTP, TCP or NONE", test[0])
}

// address completes the URL of an HTTP check: PORT/PATH is on the container's
// own localhost.
func address(s string) (string, error) {
	full := s
	if !strings.Contains(s, "://") {
		port, path, _ := strings.Cut(s, "/")
		full = "http://localhost:" + strings.TrimPrefix(port, ":") + "/" + path
	}
	u, err := url.Parse(full)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return "", invalid("invalid address %q of an HTTP health check: write http://HOST:PORT/PATH, https://..., or PORT/PATH", s)
	}
	port := u.Port()
	if port == "" {
		if port = "80"; u.Scheme == "https" {
			port = "443"
		}
	}
	if u.Host, err = endpoint(net.JoinHostPort(u.Hostname(), port)); err != nil {
		return "", err
	}
	u.Fragment = ""
	return u.String(), nil
}

// endpoint completes HOST:PORT. Names are not looked up: it is the engine that
// asks, and the container's resolver is not its own.
func endpoint(s string) (string, error) {
	host, port := "localhost", strings.TrimPrefix(s, ":")
	if strings.Contains(port, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", invalid("invalid address %q of a health check: write HOST:PORT or PORT", s)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", invalid("invalid port %q of a health check: a number from 1 to 65535 is needed", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return "", invalid("invalid host %q of a health check: write localhost, which is the container itself, or an address", host)
	}
	return net.JoinHostPort(host, port), nil
}

// Begin is the state of a container that starts; what was logged stays.
func Begin(before *container.Health) *container.Health {
	h := &container.Health{Status: container.Starting}
	if before != nil {
		h.Log = before.Log
	}
	return h
}

// Idle is the state of one whose checks stand still, as it is paused or ended:
// unhealthy, for Docker's compatibility.
func Idle(before *container.Health) *container.Health {
	if before == nil {
		return nil
	}
	h := *before
	h.Status = container.Unhealthy
	return &h
}

// After is the state after a result, of a container that was started at that time.
func (k *Check) After(before *container.Health, started time.Time, r *container.HealthcheckResult) *container.Health {
	h := *before
	h.Log = append(slices.Clone(h.Log[max(0, len(h.Log)+1-maxLog):]), r)
	if r.ExitCode == 0 {
		h.FailingStreak, h.Status = 0, container.Healthy
		return &h
	}
	if h.Status == container.Starting && r.Start.Sub(started) < k.StartPeriod {
		return &h
	}
	if h.FailingStreak++; h.FailingStreak >= k.Retries {
		h.Status = container.Unhealthy
	}
	return &h
}

// Wait is how long to wait for the next check at a time after the start.
func (k *Check) Wait(status container.HealthStatus, up time.Duration) time.Duration {
	if up >= k.StartPeriod || status != container.Starting {
		return k.Interval
	}
	return min(k.StartInterval, k.StartPeriod-up) // not past the end of the period
}

// Words are the status as `ps` shows it.
func Words(s container.HealthStatus) string {
	if s == container.Starting {
		return "health: starting"
	}
	return string(s)
}

// Output collects what a check says, up to MaxOutput.
type Output struct {
	b   []byte
	cut bool
}

// Write keeps what fits.
func (o *Output) Write(p []byte) (int, error) {
	keep := min(MaxOutput-len(o.b), len(p))
	o.b = append(o.b, p[:keep]...)
	o.cut = o.cut || keep < len(p)
	return len(p), nil
}

// String is what was kept, with "..." for what was not.
func (o *Output) String() string {
	if o.cut {
		return string(o.b) + "..."
	}
	return string(o.b)
}
