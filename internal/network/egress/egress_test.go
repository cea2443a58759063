package egress

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParse(t *testing.T) {
	for _, text := range []string{
		"", "none", "allow=10.0.0.0/8", "allow=192.0.2.1", "allow=192.0.2.1:443/tcp", "allow=10.0.0.0/8:8000-8010/udp", "allow=10.0.0.0/8/udp",
		"allow=2001:db8::/32,[2001:db8::/32]:53", "allow=[2001:db8::1]:53/udp", "allow=example.org:443,*.example.org,*", "allow=0.0.0.0/0/icmp,::/0/icmpv6", "allow=db",
	} {
		p, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := p.String(); got != text {
			t.Errorf("%q is written %q", text, got)
		}
	}
	for text, means := range map[string]string{"all": "", "allow=Example.ORG.": "allow=example.org", "allow=[2001:db8::1]": "allow=2001:db8::1", "allow=10.0.0.0/8, 10.0.0.0/8": "allow=10.0.0.0/8"} {
		if p, err := Parse(text); err != nil || p.String() != means {
			t.Errorf("%q is read as %q, %v", text, p.String(), err)
		}
	}
}

func TestBad(t *testing.T) {
	many := "allow=" + strings.Repeat("x.example,", 0)
	for i := range MaxRules + 1 {
		many += "10." + string(rune('0'+i%10)) + "." + string(rune('0'+i/10%10)) + "." + string(rune('0'+i/100)) + ","
	}
	for _, text := range []string{
		"All", "None", "allow", "allow=", "allow=,", "allow=10.0.0.1/8", "allow=10.0.0.0/33", "allow=300.1.1.1", "allow=example.org:", "allow=example.org:0",
		"allow=example.org:70000", "allow=example.org:9-8", "allow=a..b", "allow=*.*.org", "allow=a*.org", "allow=example.org/http", "allow=10.0.0.0/8:80/icmp",
		"allow=[2001:db8::1", "allow=[2001:db8::1]53", "allow=fe80::1%eth0", "allow=::ffff:10.0.0.1", "allow=a b", "allow=-\x00", strings.TrimSuffix(many, ","),
	} {
		if p, err := Parse(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is taken as %q, %v", text, p.String(), err)
		}
	}
}

func TestMeans(t *testing.T) {
	p, err := Parse("allow=*.example.org:443,api.test,192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"www.example.org": true, "a.b.example.org": true, "example.org": false, "badexample.org": false, "api.test": true, "x.api.test": false, "": false, "192.0.2.1": false} {
		if p.Resolves(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	if got := p.Sets("www.example.org"); len(p.Named()) != 2 || len(got) != 1 || got[0] != 0 {
		t.Error(got, p.Named())
	}
	if (*Policy)(nil).Resolves("a") != true || (&Policy{}).Resolves("a") {
		t.Error("no policy and none")
	}
}
