// Package around tells the firewall in which networks the host itself is, and follows
// them as its addresses change: who may reach ports of the scope lan.
package around

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
)

// Follower follows the networks. It begins with the first call of Need: most hosts never
// make one. The zero value is ready.
type Follower struct {
	mu   sync.Mutex // held while it begins and ends
	f    *os.File   // nil: it has not begun
	done chan struct{}
}

// Need has the host's networks followed from now on, for t.
func (a *Follower) Need(t *nft.Table) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f != nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch the host's addresses: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR}); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("watch the host's addresses: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	if err := setNear(t); err != nil {
		_ = f.Close()
		return err
	}
	a.f, a.done = f, make(chan struct{})
	go follow(f, t, a.done)
	return nil
}

// follow writes the host's networks anew whenever its addresses change.
func follow(f *os.File, t *nft.Table, done chan struct{}) {
	defer close(done)
	buf := make([]byte, 64<<10)
	for {
		// What it says is not read: a message may be lost (ENOBUFS), the list is whole.
		if _, err := f.Read(buf); errors.Is(err, os.ErrClosed) {
			return
		}
		// Many containers come and go: once for all that happens now.
		until := time.Now().Add(20 * time.Millisecond)
		for err := error(nil); err == nil && time.Now().Before(until); {
			if err = f.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err == nil {
				_, err = f.Read(buf)
			}
		}
		if err := f.SetReadDeadline(time.Time{}); err != nil {
			return // closed
		}
		if err := setNear(t); err != nil {
			slog.Error("ports published with the scope lan may be reachable from networks that this host has left", "error", err)
		}
	}
}

// setNear tells the firewall in which networks the host is.
func setNear(t *nft.Table) error {
	addrs, err := netns.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("read the host's addresses: %w", err)
	}
	var list []netip.Prefix
	for _, a := range addrs {
		n := a.IPNet
		if a.Peer != nil { // of a tunnel: the other end
			n = a.Peer
		}
		if n == nil {
			continue
		}
		ones, _ := n.Mask.Size()
		ip, ok := netip.AddrFromSlice(n.IP)
		if p := netip.PrefixFrom(ip.Unmap(), ones); ok && p.IsValid() && ones > 0 {
			list = append(list, p)
		}
		if own, ok := netip.AddrFromSlice(a.IP); ok && a.Peer != nil {
			list = append(list, netip.PrefixFrom(own.Unmap(), own.Unmap().BitLen()))
		}
	}
	return nft.SetNear(t, list)
}

// Close ends it.
func (a *Follower) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return nil
	}
	err := a.f.Close()
	<-a.done
	return err
}
