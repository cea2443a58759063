package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/docker/go-units"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestMergeFollowsDocker(t *testing.T) {
	var img dockerspec.DockerOCIImageConfig
	img.Entrypoint, img.Cmd, img.Env = []string{"/e"}, []string{"c"}, []string{"PATH=/bin", "A=1", "B=2"}
	c, err := Merge(container.Config{Env: []string{"A=3", "B"}}, img)
	if err != nil || !slices.Equal(c.Entrypoint, img.Entrypoint) || !slices.Equal(c.Cmd, img.Cmd) || !slices.Equal(c.Env, []string{"A=3", "B", "PATH=/bin"}) {
		t.Fatalf("%+v %v", c, err)
	}
	if env := environment(&c); !slices.Equal(env, []string{"PATH=/bin", "A=3"}) {
		t.Errorf("the program has %q", env)
	}
	if c, err = Merge(container.Config{Entrypoint: []string{"/x"}}, img); err != nil || len(c.Cmd) != 0 {
		t.Fatalf("an entrypoint of the request keeps the image's command: %v %v", c.Cmd, err)
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		h    container.HostConfig
		want string
	}{
		{container.HostConfig{Binds: []string{"/a:usr/share"}}, "mount path must be absolute: write a leading slash, '/usr/share'"},
		{container.HostConfig{Binds: []string{"/a:/x", "/b:/x"}}, "Duplicate mount point: /x"},
		{container.HostConfig{Resources: container.Resources{Memory: 1}}, "Minimum memory limit allowed is 6MB"},
		{container.HostConfig{Sysctls: map[string]string{"kernel.core_pattern": "|/x"}}, "not in a separate kernel namespace"},
		{container.HostConfig{Sysctls: map[string]string{"kernel.hostname": "x"}}, "conflicts with the OCI"},
		{container.HostConfig{Sysctls: map[string]string{"kernel.domainname": "x"}, UTSMode: "host"}, "not in a separate kernel namespace"},
		{container.HostConfig{Annotations: map[string]string{"": "x"}}, "empty string is not permitted as an annotation key"},
		{container.HostConfig{Sysctls: map[string]string{"net/../kernel/core_pattern": "|/x"}}, "invalid sysctl"},
		{container.HostConfig{Sysctls: map[string]string{"net.core.somaxconn": "1"}, NetworkMode: "host"}, "not allowed with --network host"},
		{container.HostConfig{Binds: []string{"v:/proc/foo"}}, "inside /proc"},
		{container.HostConfig{Tmpfs: map[string]string{"/proc": ""}}, "inside /proc"},
		{container.HostConfig{Resources: container.Resources{CPUPeriod: 10}}, "CPU cfs period can not be less than 1ms"},
		{container.HostConfig{Resources: container.Resources{CPUQuota: 10}}, "CPU cfs quota can not be less than 1ms"},
		{container.HostConfig{Resources: container.Resources{Memory: 8 << 20, MemoryReservation: 9 << 20}}, "less than memory reservation limit"},
		{container.HostConfig{Resources: container.Resources{Ulimits: []*units.Ulimit{{Name: "nofoo"}}}}, "invalid ulimit name nofoo"},
		{container.HostConfig{Resources: container.Resources{Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}}}, "soft limit must be less"},
		{container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80/foo"): nil}}, "invalid proto: foo"},
		{container.HostConfig{ConsoleSize: [2]uint{70000, 1}}, "invalid console size"},
		{container.HostConfig{IpcMode: "container:"}, "invalid IPC mode: container:"},
		{container.HostConfig{IpcMode: "x"}, "invalid IPC mode: x"},
		{container.HostConfig{PidMode: "private"}, "invalid PID mode: private"},
		{container.HostConfig{UTSMode: "container:x"}, "invalid UTS mode: container:x"},
		{container.HostConfig{IpcMode: "host", Sysctls: map[string]string{"kernel.msgmax": "1"}}, "not allowed in the hosts ipc namespace"},
	} {
		err := Check(&container.Config{}, &c.h)
		if err == nil {
			_, err = Points(&container.Config{}, &c.h, nil, false)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if err := Check(&container.Config{Env: []string{"=x"}}, &container.HostConfig{}); err == nil || !strings.Contains(err.Error(), "invalid environment variable") {
		t.Error(err)
	}
	for _, c := range []*container.Config{{Hostname: "x"}, {Domainname: "x"}} {
		if err := Check(c, &container.HostConfig{UTSMode: "host"}); err == nil || !strings.Contains(err.Error(), "name and the UTS mode") {
			t.Error(err)
		}
	}
	if _, err := Capabilities([]string{"bogus"}, nil, false); err == nil || !strings.Contains(err.Error(), "invalid capability") {
		t.Error(err)
	}
	if caps, err := Capabilities([]string{"net_admin"}, []string{"ALL"}, false); err != nil || !slices.Equal(caps, []string{"CAP_NET_ADMIN"}) {
		t.Error(caps, err)
	}
}
