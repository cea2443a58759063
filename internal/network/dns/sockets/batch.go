package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var errTaken = errors.New("the messages were taken")

// transaction has fill write a batch with the nftables library and sends it from
// the calling thread with one system call, and reads one answer. The library itself
// asks for an answer to each message and waits for each in Go's poller, which takes
// a locked thread ten times as long.
func transaction(fill func(*nftables.Conn)) error {
	var batch []netlink.Message
	c, err := nftables.New(nftables.WithTestDial(func(m []netlink.Message) ([]netlink.Message, error) {
		batch = m
		return nil, errTaken
	}))
	if err != nil {
		return err
	}
	fill(c)
	if err := c.Flush(); !errors.Is(err, errTaken) && len(batch) == 0 {
		return fmt.Errorf("nothing to send: %w", err)
	}
	var raw []byte
	last := len(batch) - 2 // before the batch's end
	for i := range batch {
		h := &batch[i].Header
		h.Sequence, h.PID = uint32(i+1), 0
		if h.Flags &^= netlink.Acknowledge | netlink.Echo; i == last {
			h.Flags |= netlink.Acknowledge
		}
		b, err := batch[i].MarshalBinary()
		if err != nil {
			return err
		}
		raw = append(raw, b...)
	}
	return send(raw, uint32(last+1))
}

// send waits until the kernel has done the message of the last number, or refused one.
func send(raw []byte, last uint32) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Sendto(fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN+4; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN+4 || size > len(b) {
				return errors.New("the kernel's answer cannot be read")
			}
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); code != 0 {
					return unix.Errno(-code)
				}
				if binary.NativeEndian.Uint32(b[8:]) == last {
					return nil
				}
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}
