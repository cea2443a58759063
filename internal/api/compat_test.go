package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
)

func shape(t *testing.T, v any) object {
	t.Helper()
	o, ok := objectOf(v)
	if !ok {
		t.Fatalf("%#v is no object", v)
	}
	return o
}

// has checks which keys an answer has in a version.
func has(t *testing.T, v apiVersion, o object, key string, want bool) {
	t.Helper()
	if _, ok := o[key]; ok != want {
		t.Errorf("1.%d: %q is there: %v, want %v", v, key, ok, want)
	}
}

func TestInspectShapes(t *testing.T) {
	resp := container.InspectResponse{
		Config: &container.Config{},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"bridge": {IPAddress: netip.MustParseAddr("10.88.0.2"), Gateway: netip.MustParseAddr("10.88.0.1"), IPPrefixLen: 16, MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}},
		}},
	}
	for _, v := range []apiVersion{24, 43, 51, 52, 56} {
		o := shape(t, inspectFor(v, resp))
		settings := o["NetworkSettings"].(object)
		has(t, v, settings, "IPAddress", v < 52)
		has(t, v, settings, "Bridge", v < 52)
		has(t, v, o["Config"].(object), "MacAddress", v < 44)
		if v < 52 && (settings["IPAddress"] != "10.88.0.2" || settings["Gateway"] != "10.88.0.1" || settings["MacAddress"] != "02:00:00:00:00:01") {
			t.Errorf("1.%d: %v", v, settings)
		}
	}
}

func TestImageShapes(t *testing.T) {
	resp := imagetypes.InspectResponse{Size: 5, Config: &dockerspec.DockerOCIImageConfig{}, GraphDriver: &storage.DriverData{Name: "overlayfs"}}
	for _, v := range []apiVersion{24, 43, 44, 45, 49, 51, 52} {
		used := time.Unix(7, 0)
		o := shape(t, imageFor(v, resp, used))
		if m, _ := o["Metadata"].(object); m["LastUsed"] != used.Format(time.RFC3339) {
			t.Errorf("1.%d: %v", v, m)
		}
		has(t, v, o, "VirtualSize", v < 44)
		has(t, v, o, "ContainerConfig", v < 45)
		has(t, v, o, "GraphDriver", v < 52)
		conf, _ := o["Config"].(object)
		has(t, v, conf, "Env", v < 52)
		has(t, v, conf, "Hostname", v < 50)
		body, err := json.Marshal(imagesFor(v, []imagetypes.Summary{{ID: "x", Size: 5, Containers: 2}}, map[string]time.Time{"x": used}))
		if err != nil {
			t.Fatal(err)
		}
		var list []object
		if err := json.Unmarshal(body, &list); err != nil {
			t.Fatal(err)
		}
		has(t, v, list[0], "VirtualSize", v < 44)
		has(t, v, list[0], "LastUsed", true)
		if want := map[bool]float64{true: -1, false: 2}[v < 51]; list[0]["Containers"] != want {
			t.Errorf("1.%d: Containers %v", v, list[0]["Containers"])
		}
	}
	if body, err := json.Marshal(imagesFor(40, nil, nil)); err != nil || string(body) != "[]" {
		t.Errorf("%s %v", body, err)
	}
}

// TestBriefImage: whatever the brief answer has, the whole one has too.
func TestBriefImage(t *testing.T) {
	sum := imagetypes.Summary{ID: "x", RepoTags: []string{"a:b"}, Labels: map[string]string{"l": "v"}, Size: 5, Containers: 2}
	m := imagetypes.ManifestSummary{ID: "y", Kind: imagetypes.ManifestKindImage, ImageData: &imagetypes.ImageProperties{Containers: []string{"c"}}}
	m.Size.Content, m.Size.Total, m.ImageData.Platform.OS = 3, 4, "linux"
	sum.Manifests = []imagetypes.ManifestSummary{m, {ID: "z", Kind: imagetypes.ManifestKindAttestation}}
	list := []imagetypes.Summary{sum, {ID: "none"}}
	whole := shape(t, object{"list": imagesFor(56, list, nil)})
	brief := shape(t, object{"list": briefly(list)})
	contains(t, "", whole, brief)
	first := brief["list"].([]any)[0].(object)
	has(t, 56, first, "Labels", false)
	has(t, 56, first, "Manifests", true)
}

// TestImageRow: a row says what follows from the whole answer.
func TestImageRow(t *testing.T) {
	sum := imagetypes.Summary{ID: "x", RepoTags: []string{"a:b"}, Size: 9, Containers: -1}
	for i, kind := range []imagetypes.ManifestKind{imagetypes.ManifestKindImage, imagetypes.ManifestKindAttestation, imagetypes.ManifestKindImage} {
		m := imagetypes.ManifestSummary{Kind: kind}
		m.Size.Content = int64(1 + i)
		sum.Manifests = append(sum.Manifests, m)
	}
	list := []imagetypes.Summary{sum, {ID: "none"}}
	whole := shape(t, object{"list": imagesFor(56, list, nil)})
	for _, used := range []bool{false, true} {
		if used {
			list[0].Manifests[2].ImageData = &imagetypes.ImageProperties{Containers: []string{"c"}}
		}
		row := shape(t, object{"list": rows(list)})
		first := row["list"].([]any)[0].(object)
		if first["Content"] != float64(6) || (first["Used"] == true) != used {
			t.Errorf("%v", first)
		}
		for _, r := range row["list"].([]any) {
			delete(r.(object), "Content")
			delete(r.(object), "Used")
		}
		contains(t, "", whole, row)
	}
}

// contains fails for what part has and whole has not.
func contains(t *testing.T, at string, whole, part any) {
	t.Helper()
	switch p := part.(type) {
	case object:
		w, _ := whole.(object)
		for k, v := range p {
			contains(t, at+"."+k, w[k], v)
		}
	case []any:
		w, _ := whole.([]any)
		if len(w) != len(p) {
			t.Errorf("%s: %v in the whole answer, %v in the brief one", at, whole, part)
			return
		}
		for i := range p {
			contains(t, fmt.Sprintf("%s[%d]", at, i), w[i], p[i])
		}
	default:
		if whole != part {
			t.Errorf("%s: %v in the whole answer, %v in the brief one", at, whole, part)
		}
	}
}

func TestEventAndInfoShapes(t *testing.T) {
	m := events.Message{Type: events.ContainerEventType, Action: events.ActionStart, Actor: events.Actor{ID: "x", Attributes: map[string]string{"image": "i"}}}
	for _, v := range []apiVersion{24, 51, 52} {
		o := shape(t, eventFor(v, m))
		for _, key := range []string{"status", "id", "from"} {
			has(t, v, o, key, v < 52)
		}
		has(t, v, o, "Action", true)
	}
	for _, v := range []apiVersion{24, 48, 49, 50} {
		o := shape(t, infoFor(v, system.Info{FirewallBackend: &system.FirewallInfo{Driver: "nftables"}}))
		has(t, v, o, "BridgeNfIptables", v < 50)
		has(t, v, o, "FirewallBackend", v >= 49)
		has(t, v, o["RuncCommit"].(object), "Expected", v < 49)
	}
}

func TestCreateOfOlderVersions(t *testing.T) {
	raw := []byte(`{"Image":"i","MacAddress":"02:00:00:00:00:01","HostConfig":{"AutoRemove":true,"PidsLimit":-1,"Annotations":{"a":"b"},"Umask":63}}`)
	for _, v := range []apiVersion{24, 39, 40, 41, 43, 51, 52, 56} {
		r, warnings, err := createRequest(v, raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(warnings) > 0; got != (v >= 52) { // the MAC address
			t.Errorf("1.%d: %q", v, warnings)
		}
		h := r.HostConfig
		if h.AutoRemove != (v >= 25) || (h.Annotations != nil) != (v >= 43) || h.PidsLimit != nil {
			t.Errorf("1.%d: %+v", v, h)
		}
		if (h.Umask != nil) != (v >= 56) || r.HostCgroups != (v < 41) || r.ReadOnlyTop != (v < 44) || h.CgroupnsMode != "" {
			t.Errorf("1.%d: %+v, %+v", v, h, r)
		}
		if got := h.IpcMode.IsShareable(); got != (v < 40) {
			t.Errorf("1.%d: ipc %q", v, h.IpcMode)
		}
		if ep := r.Networking.EndpointsConfig["bridge"]; (ep != nil) != (v < 52) {
			t.Errorf("1.%d: endpoint %v", v, ep)
		}
	}
	for _, c := range []struct {
		mount string
		since apiVersion // before it the mount is refused
	}{
		{`{"Type":"bind","ReadOnly":true,"BindOptions":{"ReadOnlyForceRecursive":true}}`, 44},
		{`{"Type":"volume","VolumeOptions":{"Subpath":"a"}}`, 45},
		{`{"Type":"image"}`, 48},
		{`{"Type":"bind","VolumeOptions":{"Subpath":"a"},"TmpfsOptions":{}}`, 42}, // not looked at before
	} {
		for _, v := range []apiVersion{c.since - 1, c.since} {
			r, _, err := createRequest(v, []byte(`{"Image":"i","HostConfig":{"Mounts":[`+c.mount+`]}}`))
			if c.since == 42 {
				if v < 42 && (err != nil || r.HostConfig.Mounts[0].VolumeOptions != nil || r.HostConfig.Mounts[0].TmpfsOptions != nil) {
					t.Errorf("1.%d: %s: %+v, %v", v, c.mount, r.HostConfig, err)
				}
			} else if (err != nil) != (v < c.since) {
				t.Errorf("1.%d: %s: %v", v, c.mount, err)
			}
		}
	}
	for driver, want := range map[string]int{"": 0, "x": 1} {
		_, warnings, err := createRequest(50, []byte(`{"Image":"i","HostConfig":{"VolumeDriver":"`+driver+`","Mounts":[{"Type":"volume"}]}}`))
		if err != nil || len(warnings) != want {
			t.Errorf("the driver %q: %q, %v", driver, warnings, err)
		}
	}
	for _, bad := range []string{`{}x`, `null`, `{"Image":1}`, `{"Image":"i","MacAddress":"nonsense"}`} {
		if _, _, err := createRequest(40, []byte(bad)); statusOf(err) != 400 {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// What has no effect is said; what clients send for unset fields is not.
func TestCreateSaysWhatItIgnores(t *testing.T) {
	r, warnings, err := createRequest(40, []byte(`{"Image":"i","Cmd":"date","entrypoint":["sh","-c"],"Capabilities":null,"Swap":7,
		"HostConfig":{"KernelMemory":0,"KernelMemoryTCP":5,"DiskQuota":0,"memory":8000000,"PortBindings":{"80/tcp":[],"81/tcp":[{"HostPort":"1"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Config.Cmd, []string{"date"}) || !slices.Equal(r.Config.Entrypoint, []string{"sh", "-c"}) || r.HostConfig.Memory != 8_000_000 {
		t.Errorf("%+v", r.Config)
	}
	if len(r.HostConfig.PortBindings[network.MustParsePort("80/tcp")]) != 1 {
		t.Errorf("%v", r.HostConfig.PortBindings)
	}
	for i, want := range []string{"Swap ", "HostConfig.KernelMemoryTCP ", "80/tcp"} {
		if len(warnings) != 3 || !strings.Contains(warnings[i], want) {
			t.Fatalf("%q", warnings)
		}
	}
	if _, _, err := createRequest(40, []byte(`{"Image":"i","Cmd":7}`)); statusOf(err) != 400 {
		t.Error(err)
	}
}

func TestSummaryShapes(t *testing.T) {
	for _, v := range []apiVersion{24, 51, 52} {
		list := summariesFor(v, []container.Summary{{Health: &container.HealthSummary{Status: container.NoHealthcheck}}})
		has(t, v, shape(t, list[0]), "Health", v >= 52)
	}
}
