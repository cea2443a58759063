package relay

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Command is the argument by which hezi-keeper becomes the relay.
const Command = "relay"

// Port is a socket whose clients are led elsewhere.
type Port struct {
	// Key names it for as long as it is published.
	Key string
	// Socket is bound and, of TCP, listens. It is the caller's, who keeps it open until
	// the port has been taken away; -1: none, only where it leads has changed.
	Socket int `json:"-"`
	To     netip.AddrPort
}

// message from Client to Server; each has at most one descriptor.
type message struct {
	Op    string
	Owner string `json:",omitempty"`
	Port  *Port  `json:",omitempty"`
	Ended bool   `json:",omitempty"` // what is open of the owner's is closed too
}

const (
	opSync   = "sync"   // ports follow, all that there are
	opSynced = "synced" // what has not come since is gone
	opPort   = "port"
	opGone   = "gone" // a port, or with Ended all of an owner
	opStop   = "stop"
)

// maxMessage in bytes.
const maxMessage = 4096

func folder(execRoot string) string { return filepath.Join(execRoot, "relay") }

func socketPath(execRoot string) string { return filepath.Join(folder(execRoot), "relay.sock") }

// send writes one message with the socket of its port.
func send(c *net.UnixConn, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("a message of %d bytes to the relay is over the limit of %d", len(body), maxMessage)
	}
	var rights []byte
	if m.Port != nil && m.Port.Socket >= 0 {
		rights = unix.UnixRights(m.Port.Socket)
	}
	_, _, err = c.WriteMsgUnix(body, rights, nil)
	return err
}

// receive reads one message; the socket of its port is the caller's.
func receive(c *net.UnixConn) (m message, err error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	fds := rights(oob[:oobn])
	if err == nil && n == 0 {
		err = net.ErrClosed
	}
	if err == nil {
		err = json.Unmarshal(buf[:n], &m)
	}
	if err == nil && m.Port != nil && len(fds) == 1 {
		m.Port.Socket = fds[0]
		return m, nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	if m.Port != nil {
		m.Port.Socket = -1
	}
	return m, err
}

func rights(oob []byte) (fds []int) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range list {
		if got, err := unix.ParseUnixRights(&list[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds
}
