package options

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"text/template"
	"time"
)

// Info is what a tag's template may ask about a container; the fields and methods
// are Docker's (moby's daemon/logger/loginfo.go), since users write them.
type Info struct {
	Config              map[string]string
	ContainerID         string
	ContainerName       string
	ContainerEntrypoint string
	ContainerArgs       []string
	ContainerImageID    string
	ContainerImageName  string
	ContainerCreated    time.Time
	ContainerEnv        []string
	ContainerLabels     map[string]string
	LogPath             string
	DaemonName          string
}

const shortID = 12

func short(id string) string {
	if _, hash, ok := strings.Cut(id, ":"); ok {
		id = hash
	}
	return id[:min(len(id), shortID)]
}

// ID is the container's, shortened.
func (i *Info) ID() string { return short(i.ContainerID) }

// FullID is the container's.
func (i *Info) FullID() string { return i.ContainerID }

// Name is the container's, without the slash.
func (i *Info) Name() string { return strings.TrimPrefix(i.ContainerName, "/") }

// ImageID is the image's, shortened.
func (i *Info) ImageID() string { return short(i.ContainerImageID) }

// ImageFullID is the image's.
func (i *Info) ImageFullID() string { return i.ContainerImageID }

// ImageName is as the image was asked for.
func (i *Info) ImageName() string { return i.ContainerImageName }

// Command is what the container runs, with its arguments.
func (i *Info) Command() string {
	return strings.Join(append([]string{i.ContainerEntrypoint}, i.ContainerArgs...), " ")
}

// Hostname is the host's.
func (i *Info) Hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("logger: can not resolve hostname: %w", err)
	}
	return name, nil
}

// DefaultTag is the tag of drivers that always have one.
const DefaultTag = "{{.ID}}"

// Tag is the container's: the option's template, else def's; "" is none.
func (i *Info) Tag(def string) (string, error) {
	text := i.Config["tag"]
	if text == "" {
		text = def
	}
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"json": asJSON, "split": strings.Split, "join": strings.Join, "title": title, "lower": strings.ToLower, "upper": strings.ToUpper,
		"pad": pad, "truncate": truncate,
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, i); err != nil {
		return "", err
	}
	return b.String(), nil
}

func asJSON(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSpace(b.String()), err
}

func title(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, " ")
}

func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
}

func truncate(s string, n int) string { return s[:max(0, min(len(s), n))] }

// Attributes are the labels and variables that the options choose, their names
// changed by name where it is not nil.
func (i *Info) Attributes(name func(string) string) (map[string]string, error) {
	chosen := map[string]string{}
	env := map[string]string{}
	for _, e := range i.ContainerEnv {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	for _, from := range []struct {
		key string
		all map[string]string
	}{{"labels", i.ContainerLabels}, {"env", env}} {
		take := func(k, v string) {
			if name != nil {
				k = name(k)
			}
			if k != "" {
				chosen[k] = v
			}
		}
		for k := range strings.SplitSeq(i.Config[from.key], ",") {
			if v, ok := from.all[k]; ok && k != "" {
				take(k, v)
			}
		}
		text := i.Config[from.key+"-regex"]
		if text == "" {
			continue
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("%s-regex: %w", from.key, err)
		}
		for k, v := range from.all {
			if re.MatchString(k) {
				take(k, v)
			}
		}
	}
	return chosen, nil
}

// FileAttributes are those of each record of a container's file: the chosen ones,
// and the tag if one was asked for. nil: none.
func (i *Info) FileAttributes() (map[string]string, error) {
	attrs, err := i.Attributes(nil)
	if err != nil {
		return nil, err
	}
	tag, err := i.Tag("")
	if err != nil {
		return nil, err
	}
	if tag != "" {
		attrs["tag"] = tag
	}
	if len(attrs) == 0 {
		return nil, nil
	}
	return attrs, nil
}
