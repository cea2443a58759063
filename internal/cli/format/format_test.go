package format

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestPorts(t *testing.T) {
	v4, v6 := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::")
	port := func(ip netip.Addr, private, public uint16, proto string) container.PortSummary {
		return container.PortSummary{IP: ip, PrivatePort: private, PublicPort: public, Type: proto}
	}
	var none netip.Addr
	for want, ports := range map[string][]container.PortSummary{
		"":                                    nil,
		"80/tcp":                              {port(none, 80, 0, "tcp")},
		"80-82/tcp":                           {port(none, 82, 0, "tcp"), port(none, 80, 0, "tcp"), port(none, 81, 0, "tcp")},
		"80/tcp, 90/tcp":                      {port(none, 80, 0, "tcp"), port(none, 90, 0, "tcp")},
		"80/tcp, 80/udp":                      {port(none, 80, 0, "tcp"), port(none, 80, 0, "udp")},
		"0.0.0.0:8080->80/tcp":                {port(v4, 80, 8080, "tcp")},
		"0.0.0.0:80-81->80-81/tcp":            {port(v4, 80, 80, "tcp"), port(v4, 81, 81, "tcp")},
		"0.0.0.0:80->80/tcp, [::]:80->80/tcp": {port(v6, 80, 80, "tcp"), port(v4, 80, 80, "tcp")},
		"443/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp": {port(v6, 80, 8080, "tcp"), port(none, 443, 0, "tcp"), port(v4, 80, 8080, "tcp")},
	} {
		if got := Ports(ports); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestContainerFields(t *testing.T) {
	c := container.Summary{
		ID: "0123456789abcdef", Names: []string{"/db/link", "/web"}, Image: "docker.io/library/nginx:1@sha256:" + strings.Repeat("a", 64), ImageID: "sha256:1",
		Command: "nginx -g 'daemon off;' and more", Created: now.Add(-75 * time.Minute).Unix(), State: "running", Status: "Up 2 hours (healthy)",
		SizeRw: 1500, SizeRootFs: 3_000_000, Labels: map[string]string{"b": "2", "a": "1"},
		Mounts: []container.MountPoint{{Name: "volume-with-a-long-name", Driver: "local"}, {Source: "/host"}},
	}
	short, long := Containers([]container.Summary{c}, true, now)[0], Containers([]container.Summary{c}, false, now)[0]
	for got, want := range map[string]string{
		short.ID(): "0123456789ab", long.ID(): "0123456789abcdef",
		short.Names(): "web", long.Names(): "db/link,web",
		short.Image(): "nginx:1", long.Image(): c.Image,
		short.Command(): `"nginx -g 'daemon of…"`, long.Command(): `"nginx -g 'daemon off;' and more"`,
		short.RunningFor(): "About an hour ago", short.Size(): "1.5kB (virtual 3MB)",
		short.Labels(): "a=1,b=2", short.Label("a"): "1", short.Mounts(): "volume-with-a-…,/host",
		short.LocalVolumes(): "1", short.HealthStatus(): "healthy",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNeedsSize(t *testing.T) {
	for source, want := range map[string]bool{"{{.ID}}": false, "{{.Size}}": true, "table {{.Names}}\t{{.Size}}": true, "json": false, "{{json .}}": true} {
		if got, err := NeedsSize(source); err != nil || got != want {
			t.Errorf("%s: got %t, %v", source, got, err)
		}
	}
}

func TestFunctions(t *testing.T) {
	row := Networks([]network.Summary{{Network: network.Network{Name: "Net", ID: "0123456789abcdef", Labels: map[string]string{"com.example.some-key": "v"}}}}, true)
	for source, want := range map[string]string{
		`{{lower .Name}} {{upper .Name}} {{title .Driver}}`: "net NET \n",
		`{{join (split .Name "e") "-"}}`:                    "N-t\n",
		`{{json .Name}}`:                                    "\"Net\"\n",
		`{{pad .Name 1 2}}|{{truncate .Name 2}}`:            " Net  |Ne\n",
		`{{println .Name}}`:                                 "Net\n\n",
		`{{.ID}}\t{{.Name}}`:                                "0123456789ab\tNet\n",
		`table {{.ID}}\t{{.Label "com.example.some-key"}}`:  "NETWORK ID     some key\n0123456789ab   v\n",
	} {
		var b bytes.Buffer
		if err := Rows(Printer{Out: &b, Source: source, Headers: NetworkHeaders}, row); err != nil || b.String() != want {
			t.Errorf("%s: got %q, want %q (%v)", source, b.String(), want, err)
		}
	}
}

func TestImageRows(t *testing.T) {
	digest := "sha256:" + strings.Repeat("d", 64)
	list := []image.Summary{
		{ID: "sha256:" + strings.Repeat("1", 64), RepoTags: []string{"docker.io/library/a:1", "a:2", "reg:5000/b:x"}, RepoDigests: []string{"a@" + digest}, Created: now.Add(-time.Hour * 24 * 14).Unix(), Size: 1234567},
		{ID: "sha256:" + strings.Repeat("2", 64), RepoDigests: []string{"c@" + digest}},
		{ID: "sha256:" + strings.Repeat("3", 64)},
	}
	print := func(source string, quiet, digests bool) string {
		var b bytes.Buffer
		p := Printer{Out: &b, Source: ImageSource(source, quiet, digests), Headers: ImageHeaders}
		if err := Rows(p, Images(list, true, digests, p.Source, now)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	want := `REPOSITORY   TAG       IMAGE ID       CREATED       SIZE
a            1         111111111111   2 weeks ago   1.23MB
a            2         111111111111   2 weeks ago   1.23MB
reg:5000/b   x         111111111111   2 weeks ago   1.23MB
c            <none>    222222222222   N/A           0B
<none>       <none>    333333333333   N/A           0B
`
	if got := print("", false, false); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := print("", false, true); strings.Count(got, digest) != 3 {
		t.Errorf("digests are not shown:\n%s", got)
	}
	if got := print("{{.Repository}} {{.Digest}}", false, false); strings.Count(got, digest) != 2 {
		t.Errorf("a template does not get digests:\n%s", got)
	}
	if got := print("", true, false); strings.Count(got, "\n") != 5 {
		t.Errorf("quiet: %s", got)
	}
}

func TestInspection(t *testing.T) {
	type object struct{ Name string }
	for _, c := range []struct{ format, want string }{
		{"", "[\n    {\n        \"Name\": \"x\",\n        \"More\": 9007199254740993\n    }\n]\n"},
		{"json", `[{"Name":"x","More":9007199254740993}]` + "\n"},
		{"{{.Name}}", "x\n"},
		{"{{.More}}", "9007199254740993\n"}, // only the raw object has it
		{"{{json .}}", `{"Name":"x"}` + "\n"},
	} {
		i, err := NewInspection(c.format)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Add(object{"x"}, []byte(`{"Name":"x","More":9007199254740993}`+"\n")); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := i.Flush(&b); err != nil || b.String() != c.want {
			t.Errorf("%q: got %q, want %q (%v)", c.format, b.String(), c.want, err)
		}
	}
	i, err := NewInspection("{{.Nosuch}}")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Add(object{"x"}, []byte(`{"Name":"x"}`)); err == nil || !strings.Contains(err.Error(), "Nosuch") {
		t.Errorf("a field that is nowhere: %v", err)
	}
	empty, _ := NewInspection("")
	var b bytes.Buffer
	if err := empty.Flush(&b); err != nil || b.String() != "[]\n" {
		t.Errorf("nothing: %q (%v)", b.String(), err)
	}
}

func TestJSONHasAllFields(t *testing.T) {
	var b bytes.Buffer
	if err := Rows(Printer{Out: &b, Source: "json"}, Volumes([]volume.Volume{{Name: "v", Driver: "local"}})); err != nil {
		t.Fatal(err)
	}
	want := `{"Availability":"N/A","Driver":"local","Group":"N/A","Labels":"","Links":"N/A","Mountpoint":"","Name":"v","Scope":"","Size":"N/A","Status":"N/A"}` + "\n"
	if b.String() != want {
		t.Errorf("got %s, want %s", b.String(), want)
	}
}

func TestEllipsis(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{{"", 5, ""}, {"short", 5, "short"}, {"longer", 5, "long…"}, {"盒子盒子", 3, "盒子…"}, {"ab", 1, "a"}, {"ab", 0, ""}} {
		if got := Ellipsis(c.in, c.width); got != c.want {
			t.Errorf("Ellipsis(%q, %d) = %q, want %q", c.in, c.width, got, c.want)
		}
	}
}
