package network

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// TestConnectWhileItGoes: a connection that is made while its network is removed, or its
// container ends, is refused or whole, and nothing of it is left.
func TestConnectWhileItGoes(t *testing.T) {
	c := open(t, testOptions(t, "goes"))
	ctx := context.Background()
	for i := range 20 {
		name, id := fmt.Sprint("n", i), fmt.Sprint("c", i)
		smallLan(t, c, name, fmt.Sprintf("10.211.%d.0/24", i))
		join(t, c, id, nil)
		var wg sync.WaitGroup
		var connected, removed error
		wg.Go(func() { _, connected = c.Connect(ctx, id, EndpointRequest{Network: name}) })
		if i%2 == 0 {
			wg.Go(func() { removed = c.Remove(ctx, name) })
		} else {
			wg.Go(func() { c.Release(id) })
		}
		wg.Wait()
		if i%2 == 0 {
			if (connected == nil) == (removed == nil) {
				t.Errorf("connected: %v, and the network removed: %v", connected, removed)
			}
			c.Release(id)
		}
		if i%2 == 1 || removed != nil {
			if err := c.Remove(ctx, name); err != nil {
				t.Errorf("after its container ended: %v", err)
			}
		}
	}
	released(t, c)
}
