// Package changes applies Dockerfile instructions to an image's configuration, as
// import and commit take them with --change.
package changes

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
)

// Apply applies instructions in turn, as lines of a Dockerfile: \ goes on with
// the next line, # begins a comment, $NAME stands for what ENV set. The error
// is InvalidArgument and names the line.
func Apply(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	if len(changes) == 0 {
		return nil
	}
	a := applier{c: c}
	n := 0
	for _, line := range lines(strings.Join(changes, "\n")) {
		word, rest := line, ""
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			word, rest = line[:i], strings.TrimSpace(line[i:])
		}
		if err := a.apply(strings.ToUpper(word), rest); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid change %q: %v", line, err))
		}
		n++
	}
	if n == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("invalid change: file with no instructions")
	}
	return nil
}

// lines joins lines that go on, and leaves out those without an instruction.
func lines(text string) (out []string) {
	whole := ""
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		if trimmed := strings.TrimLeft(line, " \t"); trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		if head, ok := strings.CutSuffix(line, `\`); ok {
			whole += head
			continue
		}
		out = append(out, strings.TrimSpace(whole+line))
		whole = ""
	}
	if whole = strings.TrimSpace(whole); whole != "" {
		out = append(out, whole)
	}
	return out
}

// applier applies instructions to one configuration.
type applier struct {
	c      *dockerspec.DockerOCIImageConfig
	cmdSet bool // by one of the instructions
}

func (a *applier) apply(word, rest string) error {
	c := a.c
	if rest == "" {
		return fmt.Errorf("%s needs a value", word)
	}
	switch word {
	case "CMD":
		c.Cmd, a.cmdSet = command(rest), true
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
		if !a.cmdSet { // the old one was for the old entrypoint
			c.Cmd = nil
		}
	case "USER", "WORKDIR", "STOPSIGNAL":
		return a.single(word, rest)
	case "ONBUILD":
		trigger, _, _ := strings.Cut(rest, " ")
		switch strings.ToUpper(trigger) {
		case "ONBUILD":
			return errors.New("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
		case "MAINTAINER", "FROM":
			return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(trigger))
		}
		c.OnBuild = append(c.OnBuild, rest)
	case "ENV", "LABEL":
		return a.pairs(word, rest)
	case "EXPOSE":
		return a.expose(rest)
	case "VOLUME":
		return a.volumes(rest)
	case "HEALTHCHECK":
		return healthcheck(c, rest)
	default:
		return fmt.Errorf("%s is not a valid change command: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR are", strings.ToLower(word))
	}
	return nil
}

// single sets what has one value.
func (a *applier) single(word, rest string) error {
	value, err := a.whole(rest)
	if err != nil {
		return err
	}
	switch word {
	case "USER":
		a.c.User = value
	case "WORKDIR":
		if !path.IsAbs(value) { // goes on from where it is
			value = path.Join("/", a.c.WorkingDir, value)
		}
		a.c.WorkingDir = path.Clean(value)
	default:
		if _, err := signal.ParseSignal(value); err != nil {
			return err
		}
		a.c.StopSignal = value
	}
	return nil
}

func (a *applier) pairs(word, rest string) error {
	pairs, err := a.keyValues(word, rest)
	if err != nil {
		return err
	}
	for _, kv := range pairs {
		if word == "LABEL" {
			if a.c.Labels == nil {
				a.c.Labels = map[string]string{}
			}
			a.c.Labels[kv[0]] = kv[1]
			continue
		}
		a.c.Env = append(withoutVariable(a.c.Env, kv[0]), kv[0]+"="+kv[1])
	}
	return nil
}

func (a *applier) expose(rest string) error {
	words, err := a.words(rest)
	if err != nil {
		return err
	}
	for _, p := range words {
		ports, err := network.ParsePortRange(p)
		if err != nil {
			return err
		}
		if a.c.ExposedPorts == nil {
			a.c.ExposedPorts = map[string]struct{}{}
		}
		for port := range ports.All() {
			a.c.ExposedPorts[port.String()] = struct{}{}
		}
	}
	return nil
}

func (a *applier) volumes(rest string) error {
	var list []string
	if !strings.HasPrefix(rest, "[") || json.Unmarshal([]byte(rest), &list) != nil {
		list = strings.Fields(rest)
	}
	for _, v := range list {
		v, err := a.whole(v)
		if err != nil {
			return err
		}
		if v = strings.TrimSpace(v); v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		if a.c.Volumes == nil {
			a.c.Volumes = map[string]struct{}{}
		}
		a.c.Volumes[v] = struct{}{}
	}
	return nil
}

// command is the exec form when it is a JSON array, else the shell form.
func command(rest string) []string {
	var list []string
	if strings.HasPrefix(rest, "[") && json.Unmarshal([]byte(rest), &list) == nil {
		return list
	}
	return []string{"/bin/sh", "-c", rest}
}

func withoutVariable(env []string, name string) []string {
	var out []string
	for _, e := range env {
		if k, _, _ := strings.Cut(e, "="); k != name {
			out = append(out, e)
		}
	}
	return out
}

// keyValues reads KEY=VALUE ..., with quotes and backslashes as in a shell, or
// the old form KEY VALUE.
func (a *applier) keyValues(word, s string) ([][2]string, error) {
	first, rest := s, ""
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		first, rest = s[:i], strings.TrimSpace(s[i:])
	}
	if !strings.Contains(first, "=") {
		if rest == "" {
			return nil, fmt.Errorf("%s must have two arguments", word)
		}
		value, err := a.whole(rest)
		return [][2]string{{first, value}}, err
	}
	words, err := a.words(s)
	if err != nil {
		return nil, err
	}
	var out [][2]string
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("syntax error - can't find = in %q. Must be of the form: name=value", w)
		}
		if k == "" {
			return nil, fmt.Errorf("%s names can not be blank", word)
		}
		out = append(out, [2]string{k, v})
	}
	return out, nil
}

// words splits a line as a shell does; whole takes it as one word.
func (a *applier) words(s string) ([]string, error) { return a.split(s, true) }

func (a *applier) whole(s string) (string, error) {
	list, err := a.split(s, false)
	return strings.Join(list, ""), err
}

func (a *applier) split(s string, atSpaces bool) ([]string, error) {
	var words []string
	var b strings.Builder
	in := false
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\\' && quote != '\'' && i+1 < len(s):
			in = true
			if next := s[i+1]; quote == '"' && next != '"' && next != '$' && next != '\\' {
				b.WriteByte(ch) // in quotes it stands for itself
			}
			i++
			b.WriteByte(s[i])
		case ch == quote:
			quote = 0
		case quote == 0 && (ch == '"' || ch == '\''):
			quote, in = ch, true
		case ch == '$' && quote != '\'':
			value, n, err := a.variable(s[i+1:])
			if err != nil {
				return nil, err
			}
			b.WriteString(value)
			i, in = i+n, true
		case quote == 0 && atSpaces && (ch == ' ' || ch == '\t'):
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteByte(ch)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

// variable reads what follows a $: NAME, {NAME}, {NAME:-default}, {NAME:+other};
// n is how much of it that is. A $ that begins none of these is a $.
func (a *applier) variable(s string) (value string, n int, err error) {
	if !strings.HasPrefix(s, "{") {
		n = nameLength(s)
		if n == 0 {
			return "$", 0, nil
		}
		value, _ = a.lookup(s[:n])
		return value, n, nil
	}
	end := strings.IndexByte(s, '}')
	length := nameLength(s[1:])
	if end < 0 || length == 0 {
		return "", 0, fmt.Errorf("bad substitution: $%s", s)
	}
	name, rest := s[1:1+length], s[1+length:end]
	value, set := a.lookup(name)
	switch {
	case rest == "":
	case strings.HasPrefix(rest, ":-"):
		if value == "" {
			value = rest[2:]
		}
	case strings.HasPrefix(rest, ":+"):
		if value != "" {
			value = rest[2:]
		}
	case strings.HasPrefix(rest, "-"):
		if !set {
			value = rest[1:]
		}
	case strings.HasPrefix(rest, "+"):
		if set {
			value = rest[1:]
		}
	default:
		return "", 0, fmt.Errorf("unsupported modifier in ${%s%s}: write ${%s:-default} or ${%s:+other}", name, rest, name, name)
	}
	return value, end + 1, nil
}

func nameLength(s string) int {
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	return n
}

func (a *applier) lookup(name string) (string, bool) {
	for _, e := range a.c.Env {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v, true
		}
	}
	return "", false
}

func healthcheck(c *dockerspec.DockerOCIImageConfig, rest string) error {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(rest, "--") {
		option, after, _ := strings.Cut(rest, " ")
		rest = strings.TrimSpace(after)
		name, value, _ := strings.Cut(strings.TrimPrefix(option, "--"), "=")
		if name == "retries" {
			if _, err := fmt.Sscanf(value, "%d", &h.Retries); err != nil {
				return fmt.Errorf("retries: %q is no number", value)
			}
			if h.Retries < 0 {
				return fmt.Errorf("--retries cannot be negative (%d)", h.Retries)
			}
			continue
		}
		d, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if d != 0 && d < time.Millisecond {
			return fmt.Errorf("interval %q cannot be less than 1ms", name)
		}
		switch name {
		case "interval":
			h.Interval = d
		case "timeout":
			h.Timeout = d
		case "start-period":
			h.StartPeriod = d
		case "start-interval":
			h.StartInterval = d
		default:
			return fmt.Errorf("unknown option --%s", name)
		}
	}
	kind, after, _ := strings.Cut(rest, " ")
	switch strings.ToUpper(kind) {
	case "NONE":
		h.Test = []string{"NONE"}
	case "CMD":
		after = strings.TrimSpace(after)
		var list []string
		if strings.HasPrefix(after, "[") && json.Unmarshal([]byte(after), &list) == nil {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", after}
		}
	default:
		return fmt.Errorf("write HEALTHCHECK [OPTIONS] CMD COMMAND, or HEALTHCHECK NONE")
	}
	c.Healthcheck = h
	return nil
}
