package scope

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

func TestSlice(t *testing.T) {
	for parent, want := range map[string]string{
		"": "system.slice /system.slice", "user.slice": "user.slice /user.slice", "-.slice": "-.slice /",
		"my-own-x.slice": "my-own-x.slice /my.slice/my-own.slice/my-own-x.slice",
	} {
		slice, dir, err := Slice(parent)
		if got := slice + " " + dir; err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", parent, got, err, want)
		}
	}
	for _, parent := range []string{"/mine", "a/b.slice", ".slice", "a--b.slice", "-a.slice", "a.scope", "a b.slice", "../x.slice"} {
		_, _, err := Slice(parent)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"`) {
			t.Errorf("%q: %v", parent, err)
		}
	}
}

// TestRounded: what systemd keeps is never less than what was asked for.
func TestRounded(t *testing.T) {
	for _, x := range []struct {
		quota  int64
		period uint64
		want   int64
	}{{50000, 100000, 50000}, {50000, 0, 50000}, {50500, 100000, 51000}, {1000, 0, 1000}, {33300, 100000, 34000}, {1000, 1000000, 10000}, {-1, 100000, -1}, {0, 0, 0}} {
		if got := Rounded(box.Resources{CPUQuota: x.quota, CPUPeriod: x.period}).CPUQuota; got != x.want {
			t.Errorf("%d of %d: %d, want %d", x.quota, x.period, got, x.want)
		}
	}
}

// TestProperties: every limit is told, also one that is not set.
func TestProperties(t *testing.T) {
	show := func(d *Driver, r box.Resources) string {
		var b strings.Builder
		for _, p := range append(d.limits(r), d.io(r.IO)...) {
			fmt.Fprintf(&b, "%s=%v\n", p.Name, p.Value.Value())
		}
		return b.String()
	}
	r := box.Resources{Memory: 64 << 20, MemorySwap: 96 << 20, MemoryReservation: 20 << 20, CPUQuota: 33300, CPUPeriod: 100000, CPUShares: 512,
		CpusetCpus: "0,2-3", PidsLimit: 50, IO: &cgroup.IO{Weight: 300, ReadBps: []cgroup.DeviceLimit{{Major: 8, Minor: 0, Value: 1000}, {Major: 8, Minor: 16}}}}
	const none = "18446744073709551615"
	if got := show(&Driver{unified: true}, box.Resources{Memory: 64 << 20, MemorySwap: 64 << 20}); !strings.Contains(got, "MemorySwapMax=0\n") {
		t.Errorf("no swap at all: %s", got)
	}
	for _, x := range []struct {
		d    *Driver
		r    box.Resources
		want string
	}{
		{&Driver{unified: true, version: 252}, r, "TasksMax=50\nMemoryMax=67108864\nMemorySwapMax=33554432\nMemoryLow=20971520\nCPUWeight=59\n" +
			"CPUQuotaPeriodUSec=100000\nCPUQuotaPerSecUSec=340000\nAllowedCPUs=[13]\nAllowedMemoryNodes=[]\n" +
			"IOWeight=2300\nIODeviceWeight=[]\nIOReadBandwidthMax=[]\nIOReadBandwidthMax=[{/dev/block/8:0 1000}]\nIOWriteBandwidthMax=[]\nIOReadIOPSMax=[]\nIOWriteIOPSMax=[]\n"},
		{&Driver{unified: true, version: 252}, box.Resources{}, "TasksMax=" + none + "\nMemoryMax=" + none + "\nMemorySwapMax=" + none + "\nMemoryLow=0\nCPUWeight=" + none + "\n" +
			"CPUQuotaPeriodUSec=" + none + "\nCPUQuotaPerSecUSec=" + none + "\nAllowedCPUs=[]\nAllowedMemoryNodes=[]\n" +
			"IOWeight=" + none + "\nIODeviceWeight=[]\nIOReadBandwidthMax=[]\nIOWriteBandwidthMax=[]\nIOReadIOPSMax=[]\nIOWriteIOPSMax=[]\n"},
		{&Driver{version: 240}, r, "TasksMax=50\nMemoryLimit=67108864\nCPUShares=512\nCPUQuotaPerSecUSec=340000\n" +
			"BlockIOWeight=300\nBlockIODeviceWeight=[]\nBlockIOReadBandwidth=[]\nBlockIOReadBandwidth=[{/dev/block/8:0 1000}]\nBlockIOWriteBandwidth=[]\n"},
	} {
		if got := show(x.d, x.r); got != x.want {
			t.Errorf("got\n%swant\n%s", got, x.want)
		}
	}
}

// TestDevices: on v1 systemd would allow every device, on v2 it is not asked.
func TestDevices(t *testing.T) {
	d := &Driver{version: 252}
	list, err := d.devices(cgroup.Devices{Rules: []cgroup.DeviceRule{{Type: "c", Major: 10, Minor: 229, Access: "rwm"}}})
	text := fmt.Sprint(list)
	for _, want := range []string{"strict", `("/dev/char/10:229", "rwm",)`, `("/dev/char/1:3", "rwm",)`, `("char-136", "rwm",)`, `("char-*", "m",)`, `("block-*", "m",)`} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in %s, %v", want, text, err)
		}
	}
	if strings.Contains(text, `("block-*", "rwm",)`) {
		t.Error(text)
	}
	if list, err = d.devices(cgroup.Devices{All: true}); err != nil || !strings.Contains(fmt.Sprint(list), "auto") {
		t.Errorf("%v, %v", list, err)
	}
	d.unified = true
	if list, err = d.devices(cgroup.Devices{}); list != nil || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]int{`"252.39-1~deb12u2"`: 252, "v245.4-1.fc32": 245, "245": 245, `"v257"`: 257} {
		if got, err := versionOf(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	if _, err := versionOf("none"); err == nil {
		t.Error("no version")
	}
}

// TestWithoutSystemd: the daemon says at its start why the driver cannot be used.
func TestWithoutSystemd(t *testing.T) {
	if Running() {
		t.Skip("a machine without systemd is needed, and it runs this one: test/vm/debian.sh tests the driver there")
	}
	err := New("/data").Check(context.Background())
	if err == nil || !strings.Contains(err.Error(), "systemd does not run this machine") || !strings.Contains(err.Error(), "native.cgroupdriver=cgroupfs") {
		t.Error(err)
	}
}
