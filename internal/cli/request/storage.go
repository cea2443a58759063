package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
)

// volumes splits -v into anonymous volumes, which belong to the container's
// configuration, and binds, which belong to this host.
func (s *storage) volumes() (anonymous map[string]struct{}, binds []string, err error) {
	for _, spec := range s.volume.GetSlice() {
		source, target, rest, err := splitVolume(spec)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case source == "" && !strings.HasPrefix(target, "/"):
			return nil, nil, fmt.Errorf("invalid volume specification: '%s': the path in the container must be absolute; write -v /%s, or -v NAME:/path for a volume with a name", spec, strings.TrimPrefix(target, "./"))
		case source == "":
			if anonymous == nil {
				anonymous = map[string]struct{}{}
			}
			anonymous[target] = struct{}{}
			continue
		case !strings.HasPrefix(target, "/"):
			return nil, nil, fmt.Errorf("invalid volume specification: '%s': invalid mount path: '%s': mount path must be absolute; write -v %s:/%s", spec, target, source, strings.TrimPrefix(target, "./")+rest)
		}
		if strings.HasPrefix(source, ".") {
			abs, err := filepath.Abs(source)
			if err != nil {
				return nil, nil, fmt.Errorf("-v %s: %w", spec, err)
			}
			source = abs
		}
		if bind := source + ":" + target + rest; !slices.Contains(binds, bind) {
			binds = append(binds, bind)
		}
	}
	return anonymous, binds, nil
}

// splitVolume parses [SOURCE:]TARGET[:OPTIONS]; rest is empty or ":OPTIONS".
func splitVolume(spec string) (source, target, rest string, err error) {
	if spec == "" {
		return "", "", "", errors.New("invalid empty volume spec")
	}
	part := strings.Split(spec, ":")
	if slices.Contains(part, "") {
		return "", "", "", fmt.Errorf("invalid volume specification: '%s': empty section between colons", spec)
	}
	switch len(part) {
	case 1:
		return "", part[0], "", nil
	case 2:
		return part[0], part[1], "", nil
	case 3:
		return part[0], part[1], ":" + part[2], nil
	}
	return "", "", "", fmt.Errorf("invalid volume specification: '%s': too many colons", spec)
}

func (s *storage) tmpfsMounts() map[string]string {
	mounts := map[string]string{}
	for _, t := range s.tmpfs.GetSlice() {
		k, v, _ := strings.Cut(t, ":")
		mounts[k] = v
	}
	return mounts
}

func (s *storage) logOptions() (map[string]string, error) {
	if s.logDriver == "none" && s.logOpts.Len() > 0 {
		return nil, fmt.Errorf("invalid logging opts for driver %s", s.logDriver)
	}
	return opts.ConvertKVStringsToMap(s.logOpts.GetSlice()), nil
}

func (s *storage) storageOptions() (map[string]string, error) {
	m := map[string]string{}
	for _, o := range s.storageOpts.GetSlice() {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			return nil, fmt.Errorf("invalid storage option: %s: write KEY=VALUE", o)
		}
		m[k] = v
	}
	return m, nil
}

// options reads a seccomp profile's file, which the engine may not be able to
// read, and turns systempaths=unconfined into paths.
func (s *security) options() (options, masked, readonly []string, err error) {
	for _, opt := range s.securityOpt.GetSlice() {
		k, v, ok := strings.Cut(opt, "=")
		if !ok && k != "no-new-privileges" {
			k, v, ok = strings.Cut(opt, ":")
		}
		if (!ok || v == "") && k != "no-new-privileges" {
			return nil, nil, nil, fmt.Errorf("invalid --security-opt: %q", opt)
		}
		switch {
		case opt == "systempaths=unconfined":
			masked, readonly = []string{}, []string{}
			continue
		case k == "seccomp" && v != "builtin" && v != "unconfined":
			profile, err := os.ReadFile(v)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("opening seccomp profile (%s) failed: %w", v, err)
			}
			var b bytes.Buffer
			if err := json.Compact(&b, profile); err != nil {
				return nil, nil, nil, fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", v, err)
			}
			opt = "seccomp=" + b.String()
		}
		options = append(options, opt)
	}
	return options, masked, readonly, nil
}
