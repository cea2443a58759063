package network

import (
	"context"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// TestUnstoredPorts: what was published just before an engine died that could not store
// it any more is not published by the next, and what was taken away is.
func TestUnstoredPorts(t *testing.T) {
	o := testOptions(t, "unstored")
	c := open(t, o)
	ctx := context.Background()
	s := join(t, c, "a", bind("80/tcp", "", "8310"))
	serve(t, s.Path)
	if _, err := c.Republish(ctx, "a", bind("80/tcp", "", "8311"), network.PortMap{network.MustParsePort("80/tcp"): nil}); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8311", "*")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	if _, err := c.Adopt(ctx, SandboxRequest{ContainerID: "a", ContainerName: "a", Endpoints: onBridge()}, s); err != nil {
		t.Fatal(err)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8310", "*")
	if who, err := ask("", "tcp", "127.0.0.1:8311"); err == nil {
		t.Errorf("a port that nobody knows of is published, and seen as %s", who)
	}
}
