package walls

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
	"hezi/internal/box/apparmor"
	"hezi/internal/box/seccomp"
	"hezi/internal/engine/spec"
)

const profile = `seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`

// TestConfine: what a request and the daemon's configuration give together.
func TestConfine(t *testing.T) {
	for name, c := range map[string]struct {
		walls      Walls
		options    string
		privileged bool
		want       string
	}{
		"default":                     {Walls{Seccomp: seccomp.Default()}, "", false, "seccomp"},
		"privileged":                  {Walls{Seccomp: seccomp.Default(), AppArmor: true}, "", true, ""},
		"privileged with a profile":   {Walls{}, profile, true, "seccomp"},
		"unconfined":                  {Walls{Seccomp: seccomp.Default()}, "seccomp=unconfined", false, ""},
		"none by default":             {Walls{}, "", false, ""},
		"the built-in one":            {Walls{}, "seccomp=builtin", false, "seccomp"},
		"the daemon's nnp":            {Walls{NoNewPrivileges: true}, "", false, "nnp"},
		"the daemon's nnp taken back": {Walls{NoNewPrivileges: true}, "no-new-privileges=false", false, ""},
		"nnp":                         {Walls{}, "no-new-privileges", false, "nnp"},
		"AppArmor":                    {Walls{AppArmor: true}, "", false, "hezi-default"},
		"Docker's AppArmor":           {Walls{AppArmor: true}, "apparmor=docker-default", false, "hezi-default"},
		"own AppArmor":                {Walls{AppArmor: true}, "apparmor=own", true, "own"},
		"no AppArmor":                 {Walls{AppArmor: true}, "apparmor=unconfined", false, ""},
	} {
		h := &container.HostConfig{Privileged: c.privileged}
		if c.options != "" {
			h.SecurityOpt = []string{c.options}
		}
		if err := c.walls.Check(h); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s, err := spec.ParseSecurity(h.SecurityOpt)
		if err != nil {
			t.Fatal(err)
		}
		if ok, _ := apparmor.Supported(); c.walls.AppArmor && !ok {
			name, err := c.walls.appArmorProfile(h, s)
			if err != nil || name != c.want {
				t.Errorf("%s: %q, %v, want %q", c.options, name, err, c.want)
			}
			continue // it cannot be loaded here
		}
		var p box.Process
		if err := c.walls.Confine(&p, h, s, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, f := range []struct {
			name string
			set  bool
		}{{"seccomp", len(p.Seccomp) > 0}, {"nnp", p.NoNewPrivileges}, {p.AppArmorProfile, p.AppArmorProfile != ""}} {
			if f.set {
				got = append(got, f.name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	var w Walls
	for option, want := range map[string]string{
		"apparmor=own":                           "apparmor not supported",
		"apparmor=" + apparmor.Docker:            "apparmor not supported",
		"label=type:x":                           "SELinux is not enabled",
		`seccomp={"defaultAction":"SCMP_ACT_X"}`: "Decoding seccomp profile failed",
		"seccomp={":                              "Decoding seccomp profile failed",
		"what=x":                                 "invalid --security-opt 2",
		"what":                                   "invalid --security-opt 1",
		"no-new-privileges=x":                    "invalid --security-opt 2",
	} {
		err := w.Check(&container.HostConfig{SecurityOpt: []string{option}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", option, err, want)
		}
	}
	// What is wrong only with some capabilities is refused with these.
	bad := `seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY","includes":{"caps":["CAP_SYS_ADMIN"]}}]}`
	if err := w.Check(&container.HostConfig{SecurityOpt: []string{bad}}); err != nil {
		t.Error(err)
	}
	if err := w.Check(&container.HostConfig{SecurityOpt: []string{bad}, CapAdd: []string{"SYS_ADMIN"}}); err == nil {
		t.Error("a profile that cannot hold was taken")
	}
}
