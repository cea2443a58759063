package endpoint

import (
	"maps"
	"testing"

	"github.com/docker/cli/cli/config"
)

func TestEnvironment(t *testing.T) {
	for name, c := range map[string]struct {
		flags Flags
		ep    Endpoint
		want  map[string]string // what is set
	}{
		"socket":         {Flags{}, Endpoint{Context: "default", Host: "unix:///s"}, map[string]string{"DOCKER_HOST": "unix:///s"}},
		"context":        {Flags{}, Endpoint{Context: "far", Host: "tcp://far:2376"}, map[string]string{"DOCKER_CONTEXT": "far"}},
		"TLS":            {Flags{TLS: true, TLSVerify: true, CACert: "/c/ca.pem", Cert: "/c/cert.pem", Key: "/c/key.pem"}, Endpoint{Context: "default", Host: "tcp://far:2376"}, map[string]string{"DOCKER_HOST": "tcp://far:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"}},
		"TLS, unchecked": {Flags{TLS: true, CACert: "/c/ca.pem"}, Endpoint{Context: "default", Host: "tcp://far:2376"}, map[string]string{"DOCKER_HOST": "tcp://far:2376", "DOCKER_TLS": "1", "DOCKER_CERT_PATH": "/c"}},
		"other files":    {Flags{TLS: true, CACert: "/c/ca.pem", Cert: "/d/cert.pem"}, Endpoint{Context: "default", Host: "tcp://far:2376"}, nil},
	} {
		got, err := c.flags.Environment(&c.ep)
		if c.want == nil {
			if err == nil {
				t.Errorf("%s: %v, not an error", name, got)
			}
			continue
		}
		c.want["DOCKER_CONFIG"] = config.Dir()
		maps.DeleteFunc(got, func(_, value string) bool { return value == "" })
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, not %v", name, got, err, c.want)
		}
	}
}
