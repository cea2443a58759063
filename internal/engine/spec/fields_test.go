package spec

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// kept are the settings that are honoured, and what a test may set them to
// where one of the type's own values will not do. Everything else must be refused.
func kept() map[string]any {
	yes := any(nil)
	return map[string]any{
		"Config.Hostname": yes, "Config.Domainname": yes, "Config.User": yes, "Config.AttachStdin": yes, "Config.AttachStdout": yes, "Config.AttachStderr": yes,
		"Config.ExposedPorts": network.PortSet{network.MustParsePort("80/tcp"): {}}, "Config.Tty": yes, "Config.OpenStdin": yes, "Config.StdinOnce": yes,
		"Config.Env": []string{"A=b"}, "Config.Cmd": yes, "Config.Image": yes, "Config.Volumes": yes, "Config.WorkingDir": yes, "Config.Entrypoint": yes,
		"Config.Labels": yes, "Config.Healthcheck": yes, "Config.StopSignal": yes, "Config.StopTimeout": yes,
		// Shown again, without a meaning for a container on Linux.
		"Config.ArgsEscaped": yes, "Config.OnBuild": yes, "Config.Shell": yes, "HostConfig.ContainerIDFile": yes,

		"HostConfig.Binds": []string{"/a:/b"}, "HostConfig.Links": yes, "HostConfig.NetworkMode": container.NetworkMode("host"),
		"HostConfig.PortBindings":  network.PortMap{network.MustParsePort("80/tcp"): nil},
		"HostConfig.RestartPolicy": container.RestartPolicy{Name: "always"}, "HostConfig.AutoRemove": yes, "HostConfig.ConsoleSize": yes,
		"HostConfig.CapAdd": yes, "HostConfig.CapDrop": yes, "HostConfig.CgroupnsMode": container.CgroupnsMode("host"),
		"HostConfig.Dns": []netip.Addr{netip.MustParseAddr("192.0.2.1")}, "HostConfig.DnsOptions": yes, "HostConfig.DnsSearch": yes, "HostConfig.ExtraHosts": yes,
		"HostConfig.GroupAdd": yes, "HostConfig.IpcMode": container.IpcMode("none"), "HostConfig.PidMode": container.PidMode("host"), "HostConfig.UTSMode": container.UTSMode("host"),
		"HostConfig.UsernsMode": container.UsernsMode("host"), "HostConfig.OomScoreAdj": yes, "HostConfig.Privileged": yes,
		"HostConfig.MaskedPaths": []string{"/a"}, "HostConfig.ReadonlyPaths": []string{},
		"HostConfig.VolumesFrom": yes, "HostConfig.Annotations": yes,
		"HostConfig.PublishAllPorts": yes, "HostConfig.ReadonlyRootfs": yes, "HostConfig.SecurityOpt": []string{"no-new-privileges"},
		"HostConfig.Tmpfs": map[string]string{"/t": ""}, "HostConfig.ShmSize": yes, "HostConfig.Sysctls": map[string]string{"kernel.msgmax": "1"},
		"HostConfig.Umask": yes, "HostConfig.Mounts": []mount.Mount{{Type: "tmpfs", Target: "/t"}}, "HostConfig.Init": yes,
		"HostConfig.LogConfig": container.LogConfig{Type: "local"}, "HostConfig.VolumeDriver": yes, "HostConfig.Runtime": "hezi", "HostConfig.Isolation": container.Isolation("default"),
		"HostConfig.CpuShares": yes, "HostConfig.Memory": int64(8 << 20), "HostConfig.NanoCpus": int64(1e9), "HostConfig.CpuPeriod": int64(1000), "HostConfig.CpuQuota": int64(1000),
		"HostConfig.CpusetCpus": yes, "HostConfig.CpusetMems": yes, "HostConfig.MemoryReservation": int64(8 << 20), "HostConfig.MemorySwap": int64(-1), "HostConfig.PidsLimit": yes,
		"HostConfig.MemorySwappiness": new(int64(-1)), "HostConfig.OomKillDisable": yes,
		"HostConfig.CgroupParent": yes, "HostConfig.BlkioWeight": uint16(10), "HostConfig.BlkioWeightDevice": []*blkiodev.WeightDevice{{Path: "/dev/x", Weight: 10}},
		"HostConfig.BlkioDeviceReadBps": yes, "HostConfig.BlkioDeviceWriteBps": yes, "HostConfig.BlkioDeviceReadIOps": yes, "HostConfig.BlkioDeviceWriteIOps": yes,
		"HostConfig.CpuRealtimePeriod": yes, "HostConfig.CpuRealtimeRuntime": yes,
		"HostConfig.CpuPercent":        yes, // discarded with Docker's warning
		"HostConfig.Ulimits":           []*units.Ulimit{{Name: "nofile", Soft: 1, Hard: 1}},
		"HostConfig.Devices":           []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/x", CgroupPermissions: "rw"}},
		"HostConfig.StorageOpt":        map[string]string{"size": "1G"},
		"HostConfig.DeviceRequests":    yes,
		"HostConfig.DeviceCgroupRules": []string{"c 1:3 rwm"},

		"Mount.Type": mount.Type("bind"), "Mount.Source": yes, "Mount.Target": yes, "Mount.ReadOnly": yes,
		"Mount.Consistency":            yes, // of Docker Desktop, as in -v
		"BindOptions.Propagation":      mount.Propagation("rshared"),
		"BindOptions.CreateMountpoint": yes, "VolumeOptions.NoCopy": yes, "VolumeOptions.DriverConfig": &mount.Driver{Name: "local"},
		"BindOptions.NonRecursive": yes, "BindOptions.ReadOnlyNonRecursive": yes, "BindOptions.ReadOnlyForceRecursive": yes,
		"VolumeOptions.Labels": yes, "VolumeOptions.Subpath": yes, "ImageOptions.Subpath": yes, "TmpfsOptions.Options": [][]string{{"exec"}},
		"TmpfsOptions.SizeBytes": yes, "TmpfsOptions.Mode": yes,
	}
}

// Every setting of the API is honoured or refused; one that a newer API adds
// makes this test fail until it is one of both.
func TestNoSettingIsIgnored(t *testing.T) {
	honoured := kept()
	try := func(name string, v reflect.Value, check func() error) {
		t.Helper()
		sample, ok := honoured[name]
		delete(honoured, name)
		if s := reflect.ValueOf(sample); ok && s.IsValid() {
			v.Set(s)
		} else {
			something(v)
		}
		switch err := check(); {
		case err == nil && !ok:
			t.Errorf("%s is neither honoured nor refused", name)
		case err != nil && ok:
			t.Errorf("%s is refused: %v", name, err)
		}
	}
	each(reflect.TypeFor[container.Config](), func(name string, index []int) {
		c := &container.Config{}
		try("Config."+name, reflect.ValueOf(c).Elem().FieldByIndex(index), func() error { return Check(c, &container.HostConfig{}) })
	})
	each(reflect.TypeFor[container.HostConfig](), func(name string, index []int) {
		h := &container.HostConfig{}
		try("HostConfig."+name, reflect.ValueOf(h).Elem().FieldByIndex(index), func() error { return Check(&container.Config{}, h) })
	})
	read := func(m *mount.Mount) func() error {
		return func() error { _, err := parseMount(*m); return err }
	}
	each(reflect.TypeFor[mount.Mount](), func(name string, index []int) {
		if strings.HasSuffix(name, "Options") {
			return // below, and as those of another type
		}
		m := &mount.Mount{Type: "bind", Source: "/s", Target: "/t"}
		v := reflect.ValueOf(m).Elem().FieldByIndex(index)
		v.SetZero()
		if name == "Source" || name == "Target" {
			honoured["Mount."+name] = "/x"
		}
		try("Mount."+name, v, read(m))
	})
	for _, o := range []struct {
		of      mount.Type
		options func(*mount.Mount) any
	}{
		{"bind", func(m *mount.Mount) any { m.BindOptions = &mount.BindOptions{}; return m.BindOptions }},
		{"volume", func(m *mount.Mount) any { m.VolumeOptions = &mount.VolumeOptions{}; return m.VolumeOptions }},
		{"tmpfs", func(m *mount.Mount) any { m.TmpfsOptions = &mount.TmpfsOptions{}; return m.TmpfsOptions }},
		{"image", func(m *mount.Mount) any { m.ImageOptions = &mount.ImageOptions{}; return m.ImageOptions }},
	} {
		of := reflect.TypeOf(o.options(&mount.Mount{})).Elem()
		each(of, func(name string, index []int) {
			m := &mount.Mount{Type: o.of, Target: "/t", ReadOnly: strings.HasPrefix(name, "ReadOnly")} // they are of such a mount
			if o.of != "tmpfs" {
				m.Source = "/s"
			}
			try(of.Name()+"."+name, reflect.ValueOf(o.options(m)).Elem().FieldByIndex(index), read(m))
		})
		m := &mount.Mount{Type: "npipe", Target: "/t"}
		o.options(m)
		if read(m)() == nil {
			t.Errorf("%s of another type of mount are accepted", of.Name())
		}
	}
	for name := range honoured {
		t.Errorf("the API has no %s", name)
	}
}

// each calls f with the JSON name of every field.
func each(t reflect.Type, f func(name string, index []int)) {
	for _, field := range reflect.VisibleFields(t) {
		if field.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			name = field.Name
		}
		f(name, field.Index)
	}
}

// something sets a value that is not its type's zero.
func something(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		something(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		something(v.Index(0))
	case reflect.Array:
		something(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		something(value)
		key := reflect.New(v.Type().Key()).Elem()
		something(key)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.NumField() > 0 && v.Field(0).CanSet() {
			something(v.Field(0))
		}
	}
}
