package cdi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
)

const good = `
cdiVersion: 0.6.0
kind: example.com/device
devices:
  - name: one
    containerEdits:
      env: [ONE=1]
      deviceNodes:
        - {path: /dev/one, hostPath: /dev/null, permissions: r, uid: 5, fileMode: 384}
      mounts:
        - {hostPath: /etc, containerPath: /one, options: [ro, nosuid, rbind]}
  - name: two
    containerEdits:
      deviceNodes:
        - {path: /dev/zero}
containerEdits:
  env: [ALL=yes]
`

const gpu = `{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[
	{"name":"0","containerEdits":{"env":["GPU=0"]}},{"name":"1","containerEdits":{"env":["GPU1=1"]}},{"name":"all","containerEdits":{"env":["GPU=all"]}}]}`

func registry(t *testing.T, files map[string]string) *Registry {
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New([]string{dir, filepath.Join(dir, "missing")})
}

func TestEdits(t *testing.T) {
	r := registry(t, map[string]string{"good.yaml": good})
	e, err := r.Edits([]container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"example.com/device=one", "example.com/device=two"}}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ALL=yes", "ONE=1"}, e.Env); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]box.Mount{{Type: "bind", Source: "/etc", Target: "/one", ReadOnly: true, NoSuid: true, Recursive: true, Propagation: "rprivate"}}, e.Mounts); diff != "" {
		t.Error(diff)
	}
	for _, privileged := range []bool{false, true} {
		s := box.Spec{Cgroup: box.Cgroup{AllDevices: privileged}}
		e.Apply(&s)
		want := []box.Device{{Path: "/dev/one", Type: "c", Major: 1, Minor: 3, Mode: 0o600, UID: 5}, {Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, Mode: 0o666}}
		if diff := cmp.Diff(want, s.Devices); diff != "" {
			t.Error(diff)
		}
		rules := []box.DeviceRule{{Type: "c", Major: 1, Minor: 3, Access: "r"}, {Type: "c", Major: 1, Minor: 5, Access: "rwm"}}
		if privileged {
			rules = nil
		}
		if diff := cmp.Diff(rules, s.Cgroup.DeviceRules); diff != "" {
			t.Error(diff)
		}
	}
	// A specification that comes later is found.
	if err := os.WriteFile(filepath.Join(r.dirs[0], "gpu.json"), []byte(gpu), 0o644); err != nil {
		t.Fatal(err)
	}
	if names, warnings := r.Devices(); strings.Join(names, " ") != "example.com/device=one example.com/device=two nvidia.com/gpu=0 nvidia.com/gpu=1 nvidia.com/gpu=all" || len(warnings) > 0 {
		t.Error(names, warnings)
	}
}

func TestGPUs(t *testing.T) {
	r := registry(t, map[string]string{"gpu.json": gpu})
	gpus := [][]string{{"gpu"}}
	for want, q := range map[string]container.DeviceRequest{
		"GPU=all":      {Count: -1, Capabilities: gpus},
		"GPU=0":        {Count: 1, Capabilities: gpus},
		"GPU=0 GPU1=1": {Count: 2, Driver: "nvidia"},
		"GPU1=1":       {DeviceIDs: []string{"1"}, Capabilities: gpus},
		"GPU1=1 GPU=0": {DeviceIDs: []string{"1", "nvidia.com/gpu=0"}, Capabilities: gpus},
		"":             {Capabilities: gpus},
	} {
		e, err := r.Edits([]container.DeviceRequest{q})
		if err != nil || strings.Join(e.Env, " ") != want {
			t.Errorf("%+v: %v, %v, want %s", q, e, err, want)
		}
	}
}

func TestRefused(t *testing.T) {
	one := func(edits string) string {
		return `{"cdiVersion":"0.7.0","kind":"example.com/bad","devices":[{"name":"x","containerEdits":{` + edits + `}}]}`
	}
	bad := container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{"example.com/bad=x"}}
	for name, c := range map[string]struct {
		file string
		q    container.DeviceRequest
		want string
	}{
		"none":           {"", bad, "CDI device injection failed: unresolvable CDI devices example.com/bad=x"},
		"RDT":            {one(`"intelRdt":{"closID":"x"}`), bad, "Intel RDT"},
		"a pipe":         {one(`"deviceNodes":[{"path":"/dev/p","type":"p"}]`), bad, "neither a character nor a block device"},
		"a tmpfs":        {one(`"mounts":[{"hostPath":"x","containerPath":"/x","type":"tmpfs"}]`), bad, "only binds are known"},
		"an option":      {one(`"mounts":[{"hostPath":"/x","containerPath":"/x","options":["idmap"]}]`), bad, "idmap"},
		"no device":      {one(`"deviceNodes":[{"path":"/dev/nosuch"}]`), bad, "CDI device injection failed"},
		"a count":        {"", container.DeviceRequest{Driver: "cdi", Count: 1}, "unexpected count in CDI device request"},
		"options":        {"", container.DeviceRequest{Driver: "cdi", Options: map[string]string{"a": "b"}}, "unexpected options in CDI device request"},
		"no GPU":         {"", container.DeviceRequest{Count: -1, Capabilities: [][]string{{"gpu"}}}, `could not select device driver "" with capabilities: [[gpu]]`},
		"another driver": {gpu, container.DeviceRequest{Driver: "what"}, `could not select device driver "what"`},
		"two ways":       {gpu, container.DeviceRequest{Driver: "nvidia", Count: 1, DeviceIDs: []string{"0"}}, "cannot set both Count and DeviceIDs"},
		"very many":      {gpu, container.DeviceRequest{Driver: "nvidia", Count: 1 << 30}, "at most 1024"},
	} {
		r := registry(t, map[string]string{"bad.json": c.file})
		_, err := r.Edits([]container.DeviceRequest{c.q})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := New(nil).Edits([]container.DeviceRequest{bad}); err == nil || !strings.Contains(err.Error(), "cdi-spec-dirs") {
		t.Error(err)
	}
	if _, warnings := registry(t, map[string]string{"bad.json": "{"}).Devices(); len(warnings) != 1 {
		t.Error(warnings)
	}
}
