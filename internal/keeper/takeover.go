package keeper

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
)

// takeOver hands a unix connection over as it is; any other is relayed
// through a socketpair for as long as this process lives.
func (c *Client) takeOver(ctx context.Context, op Op, t TakeOver, conn net.Conn) error {
	if u, ok := conn.(*net.UnixConn); ok {
		if err := c.sendConn(ctx, op, t, nil, u); err != nil {
			return err
		}
		return u.Close()
	}
	near, far, err := SocketPair()
	if err != nil {
		return err
	}
	err = c.sendConn(ctx, op, t, nil, far)
	far.Close()
	if err != nil {
		near.Close()
		return err
	}
	go relay(conn, near)
	return nil
}

func (c *Client) sendConn(ctx context.Context, op Op, body, answer any, conn syscall.Conn) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("take over a connection: %w", err)
	}
	// Control keeps the descriptor from being closed while it is sent.
	var callErr error
	if err := rc.Control(func(fd uintptr) { callErr = c.call(ctx, op, body, answer, int(fd)) }); err != nil {
		return fmt.Errorf("take over a connection: %w", err)
	}
	return callErr
}

// relay copies both ways, half-closing as each side ends, and closes both.
func relay(client net.Conn, near *net.UnixConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(near, client)
		if err != nil {
			near.Close()
			return
		}
		near.CloseWrite()
	}()
	io.Copy(client, near)
	if h, ok := client.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
	}
	// The keeper closes only after the last byte: nothing more can be answered.
	client.Close()
	near.Close()
	<-done
}
