// Package changes applies Dockerfile instructions to an image's configuration, as
// import and commit take them with --change.
package changes

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
)

// Apply applies instructions in turn. The error is InvalidArgument and names the line.
func Apply(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	for _, line := range changes {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		if i := strings.IndexByte(line, '\t'); i >= 0 && i < len(word) {
			word, rest = line[:i], line[i+1:]
		}
		if err := applyChange(c, strings.ToUpper(word), strings.TrimSpace(rest)); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid change %q: %v", line, err))
		}
	}
	return nil
}

func applyChange(c *dockerspec.DockerOCIImageConfig, word, rest string) error {
	if rest == "" {
		return fmt.Errorf("%s needs a value", word)
	}
	switch word {
	case "CMD":
		c.Cmd = command(rest)
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
	case "USER":
		c.User = rest
	case "WORKDIR":
		if !path.IsAbs(rest) { // goes on from where it is
			rest = path.Join("/", c.WorkingDir, rest)
		}
		c.WorkingDir = path.Clean(rest)
	case "STOPSIGNAL":
		if _, err := signal.ParseSignal(rest); err != nil {
			return err
		}
		c.StopSignal = rest
	case "ONBUILD":
		c.OnBuild = append(c.OnBuild, rest)
	case "ENV", "LABEL":
		pairs, err := keyValues(rest)
		if err != nil {
			return err
		}
		for _, kv := range pairs {
			if word == "LABEL" {
				if c.Labels == nil {
					c.Labels = map[string]string{}
				}
				c.Labels[kv[0]] = kv[1]
				continue
			}
			c.Env = append(withoutVariable(c.Env, kv[0]), kv[0]+"="+kv[1])
		}
	case "EXPOSE":
		for _, p := range strings.Fields(rest) {
			ports, err := network.ParsePortRange(p)
			if err != nil {
				return err
			}
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			for port := range ports.All() {
				c.ExposedPorts[port.String()] = struct{}{}
			}
		}
	case "VOLUME":
		list := strings.Fields(rest)
		if strings.HasPrefix(rest, "[") {
			if err := json.Unmarshal([]byte(rest), &list); err != nil {
				return err
			}
		}
		for _, v := range list {
			if c.Volumes == nil {
				c.Volumes = map[string]struct{}{}
			}
			c.Volumes[v] = struct{}{}
		}
	case "HEALTHCHECK":
		return healthcheck(c, rest)
	default:
		return fmt.Errorf("%s is not one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR", word)
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
func keyValues(s string) ([][2]string, error) {
	words, err := splitWords(s)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(words[0], "=") {
		k, v, ok := strings.Cut(s, " ")
		if !ok {
			return nil, fmt.Errorf("write KEY=VALUE")
		}
		return [][2]string{{k, strings.TrimSpace(v)}}, nil
	}
	var out [][2]string
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", w)
		}
		out = append(out, [2]string{k, v})
	}
	return out, nil
}

func splitWords(s string) ([]string, error) {
	var words []string
	var b strings.Builder
	quote, in := rune(0), false
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				b.WriteRune(r)
			}
		case r == '"' || r == '\'':
			quote, in = r, true
		case r == ' ' || r == '\t':
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteRune(r)
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
			continue
		}
		d, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
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
