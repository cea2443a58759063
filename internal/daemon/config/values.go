package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
)

// value is an option's place in Config: set by a flag's text or by JSON.
type value interface {
	Set(string) error
	String() string
	Type() string
	// setJSON takes the file's value. Its error says which type is needed.
	setJSON(json.RawMessage) error
	copyFrom(value)
}

type text struct{ p *string }

func (v *text) Set(s string) error { *v.p = s; return nil }
func (v *text) String() string     { return *v.p }
func (v *text) Type() string       { return "string" }
func (v *text) copyFrom(o value)   { *v.p = *o.(*text).p }
func (v *text) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf("a string is needed")
	}
	return nil
}

type boolean struct{ p *bool }

func (v *boolean) String() string   { return strconv.FormatBool(*v.p) }
func (v *boolean) Type() string     { return "bool" }
func (v *boolean) copyFrom(o value) { *v.p = *o.(*boolean).p }
func (v *boolean) Set(s string) (err error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("true or false is needed")
	}
	*v.p = b
	return nil
}
func (v *boolean) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf("true or false is needed, without quotes")
	}
	return nil
}

type number struct{ p *int }

func (v *number) String() string   { return strconv.Itoa(*v.p) }
func (v *number) Type() string     { return "int" }
func (v *number) copyFrom(o value) { *v.p = *o.(*number).p }
func (v *number) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("a whole number is needed")
	}
	*v.p = n
	return nil
}
func (v *number) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf("a whole number is needed, without quotes")
	}
	return nil
}

// duration is written as "1m30s".
type duration struct{ p *time.Duration }

func (v *duration) String() string   { return v.p.String() }
func (v *duration) Type() string     { return "duration" }
func (v *duration) copyFrom(o value) { *v.p = *o.(*duration).p }
func (v *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("a duration is needed, as in 100ms or 1m30s")
	}
	*v.p = d
	return nil
}
func (v *duration) setJSON(b json.RawMessage) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		return fmt.Errorf("a duration is needed, as in \"1m30s\"")
	}
	return v.Set(s)
}

// pause is a duration that may be none.
type pause struct{ p *time.Duration }

func (v *pause) String() string   { return v.p.String() }
func (v *pause) Type() string     { return "duration" }
func (v *pause) copyFrom(o value) { *v.p = *o.(*pause).p }
func (v *pause) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("a duration is needed, as in 24h, or 0s for none")
	}
	*v.p = d
	return nil
}
func (v *pause) setJSON(b json.RawMessage) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		return fmt.Errorf("a duration is needed, as in \"24h\", or \"0s\" for none")
	}
	return v.Set(s)
}

// size is bytes, written as a number or as "64m".
type size struct{ p *int64 }

func (v *size) String() string   { return strings.ReplaceAll(units.BytesSize(float64(*v.p)), " ", "") }
func (v *size) Type() string     { return "bytes" }
func (v *size) copyFrom(o value) { *v.p = *o.(*size).p }
func (v *size) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil {
		return fmt.Errorf("a size is needed, as in 64m or 67108864")
	}
	*v.p = n
	return nil
}
func (v *size) setJSON(b json.RawMessage) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		return v.Set(s)
	}
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf("a size is needed, as in \"64m\" or 67108864")
	}
	return nil
}

// list is given once for each value as a flag.
type list struct{ p *[]string }

func (v *list) Set(s string) error { *v.p = append(*v.p, s); return nil }
func (v *list) String() string     { return strings.Join(*v.p, ",") }
func (v *list) Type() string       { return "list" }
func (v *list) copyFrom(o value)   { *v.p = slices.Clone(*o.(*list).p) }
func (v *list) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf("a list of strings is needed, as in [\"a\", \"b\"]")
	}
	return nil
}

// table is key=value pairs.
type table struct{ p *map[string]string }

func (v *table) Type() string     { return "map" }
func (v *table) copyFrom(o value) { *v.p = maps.Clone(*o.(*table).p) }
func (v *table) String() string {
	pairs := make([]string, 0, len(*v.p))
	for _, k := range slices.Sorted(maps.Keys(*v.p)) {
		pairs = append(pairs, k+"="+(*v.p)[k])
	}
	return strings.Join(pairs, ",")
}
func (v *table) Set(s string) error {
	k, val, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("KEY=VALUE is needed")
	}
	if *v.p == nil {
		*v.p = map[string]string{}
	}
	(*v.p)[k] = val
	return nil
}
func (v *table) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.p) != nil {
		return fmt.Errorf("an object of strings is needed, as in {\"max-size\": \"10m\"}")
	}
	return nil
}

// declared are OCI runtimes, an object of objects; as a flag NAME=PATH is one.
type declared struct{ p *map[string]system.Runtime }

func (v *declared) Type() string     { return "runtime" }
func (v *declared) copyFrom(o value) { *v.p = maps.Clone(*o.(*declared).p) }
func (v *declared) String() string {
	if len(*v.p) == 0 {
		return ""
	}
	text, err := json.Marshal(*v.p) // its keys are sorted
	if err != nil {
		return err.Error()
	}
	return string(text)
}
func (v *declared) Set(s string) error {
	name, path, ok := strings.Cut(s, "=")
	if !ok || name == "" || path == "" {
		return fmt.Errorf("NAME=PATH is needed")
	}
	if _, twice := (*v.p)[name]; twice {
		return fmt.Errorf("runtime %s is given twice", name)
	}
	if *v.p == nil {
		*v.p = map[string]system.Runtime{}
	}
	(*v.p)[name] = system.Runtime{Path: path}
	return nil
}
func (v *declared) setJSON(b json.RawMessage) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v.p); err != nil {
		return fmt.Errorf("an object of runtimes is needed, as in {\"crun\": {\"path\": \"/usr/bin/crun\", \"runtimeArgs\": []}} (%w)", err)
	}
	return nil
}

// insecure is a list of registries; a scheme before a name is left out, with a
// note, as Docker has it.
type insecure struct {
	list
	notes *[]string
}

func (v *insecure) Set(s string) error {
	if scheme, rest, ok := strings.Cut(s, "://"); ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
		rest = strings.TrimSuffix(rest, "/")
		*v.notes = append(*v.notes, fmt.Sprintf("insecure registry %s should not contain %q: it is read as %s", s, scheme+"://", rest))
		s = rest
	}
	return v.list.Set(s)
}
func (v *insecure) copyFrom(o value) { v.list.copyFrom(&o.(*insecure).list) }
func (v *insecure) setJSON(b json.RawMessage) error {
	var one string
	var all []string
	if json.Unmarshal(b, &one) == nil {
		all = []string{one}
	} else if err := (&list{&all}).setJSON(b); err != nil {
		return err
	}
	for _, s := range all {
		if err := v.Set(s); err != nil {
			return err
		}
	}
	return nil
}

// mirrors are those of Docker Hub, a list, or of every registry, an object of
// lists. As a flag HOST=MIRROR is a mirror of HOST.
type mirrors struct {
	hub *[]string
	of  *map[string][]string
}

func (v *mirrors) Type() string { return "list" }
func (v *mirrors) Set(s string) error {
	host, mirror, ok := strings.Cut(s, "=")
	if !ok || strings.ContainsRune(host, '/') {
		*v.hub = append(*v.hub, s)
		return nil
	}
	if host == "" || mirror == "" {
		return fmt.Errorf("MIRROR or HOST=MIRROR is needed")
	}
	v.add(host, mirror)
	return nil
}
func (v *mirrors) add(host string, list ...string) {
	if host == "docker.io" {
		*v.hub = append(*v.hub, list...)
		return
	}
	if *v.of == nil {
		*v.of = map[string][]string{}
	}
	(*v.of)[host] = append((*v.of)[host], list...)
}
func (v *mirrors) String() string {
	all := slices.Clone(*v.hub)
	for _, host := range slices.Sorted(maps.Keys(*v.of)) {
		for _, m := range (*v.of)[host] {
			all = append(all, host+"="+m)
		}
	}
	return strings.Join(all, ",")
}
func (v *mirrors) copyFrom(o value) {
	from := o.(*mirrors)
	*v.hub = slices.Clone(*from.hub)
	*v.of = maps.Clone(*from.of)
}
func (v *mirrors) setJSON(b json.RawMessage) error {
	if json.Unmarshal(b, v.hub) == nil {
		return nil
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(b, &object) != nil {
		return errMirrors
	}
	for _, host := range slices.Sorted(maps.Keys(object)) {
		var one string
		var all []string
		if json.Unmarshal(object[host], &one) == nil {
			all = []string{one}
		} else if json.Unmarshal(object[host], &all) != nil {
			return errMirrors
		}
		v.add(host, all...)
	}
	return nil
}

var errMirrors = errors.New(`a list of mirrors of Docker Hub is needed, or an object of lists, as in {"docker.io": ["https://mirror.example"], "ghcr.io": ["mirror.example/ghcr"]}`)
