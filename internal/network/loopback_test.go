package network

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

// TestLoopback6: without the relay a published port is refused at ::1, so that whoever
// asks localhost tries 127.0.0.1 next, and none can be published there alone.
func TestLoopback6(t *testing.T) {
	c := open(t, testOptions(t, "loop6"))
	ctx := context.Background()
	lan := []EndpointRequest{{Network: lanOf(t, c, "six", network.CreateRequest{})}}
	s, err := c.Join(ctx, SandboxRequest{ContainerID: "a", Endpoints: lan, Ports: bind("80/tcp", "", "8350")})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s.Path)
	answers(t, "", "tcp", "127.0.0.1:8350", "*")
	if _, err := ask("", "tcp", "[::1]:8350"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("at ::1: %v", err)
	}
	if _, err := c.Join(ctx, SandboxRequest{ContainerID: "b", Endpoints: lan, Ports: bind("80/tcp", "::1", "8351")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("on ::1: %v", err)
	}
}
