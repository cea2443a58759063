package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watch restores the table when somebody else removes it or its rules, and sees
// Docker come.
type Watch struct {
	f  *os.File
	wg sync.WaitGroup
}

const (
	groupNftables = 7  // NFNLGRP_NFTABLES
	subsystem     = 10 // NFNL_SUBSYS_NFTABLES
)

// Watch looks at once, and then begins to listen for changes. End it with Close.
func (t *Table) Watch() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, groupNftables)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	w := &Watch{f: os.NewFile(uintptr(fd), "nftables")}
	if err := t.meetDocker(); err != nil {
		slog.Warn("Docker's firewall may keep containers from the network", "error", err)
	}
	w.wg.Go(func() { w.run(t) })
	return w, nil
}

func (w *Watch) run(t *Table) {
	buf := make([]byte, 64<<10)
	for waiting := false; ; {
		n, err := w.f.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			waiting = false
			w.deadline(time.Time{})
			w.look(t)
		case err == nil && has(buf[:n], unix.NFT_MSG_DELTABLE):
			w.look(t)
		case waiting:
		case err != nil || has(buf[:n], unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWCHAIN):
			// A lost message (ENOBUFS) may have been one of these.
			waiting = true
			w.deadline(time.Now().Add(settle))
		}
	}
}

// settle is how long others' changes are waited for before they are looked at:
// programs that make many rules make them one by one.
const settle = 300 * time.Millisecond

func (w *Watch) deadline(at time.Time) {
	if err := w.f.SetReadDeadline(at); err != nil && !errors.Is(err, os.ErrClosed) {
		slog.Warn("watch nftables", "error", err)
	}
}

// look restores what others removed, and looks whether Docker came.
func (w *Watch) look(t *Table) {
	if !t.Intact() {
		slog.Warn("the nft table was changed by another program, restoring it", "table", t.name)
		if err := t.Restore(); err != nil {
			slog.Error("restore the nft table", "error", err)
		}
	}
	if err := t.meetDocker(); err != nil {
		slog.Warn("Docker's firewall may keep containers from the network", "error", err)
	}
}

// meetDocker is PassDocker, said.
func (t *Table) meetDocker() error {
	added, err := t.PassDocker()
	if added {
		slog.Info("Docker drops what is forwarded: its chain DOCKER-USER now accepts our bridges; what comes in is still limited to published ports")
	}
	return err
}

// has says whether one of the messages is of one of the kinds.
func has(b []byte, kinds ...uint16) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false
		}
		if kind := binary.NativeEndian.Uint16(b[4:]); kind>>8 == subsystem && slices.Contains(kinds, kind&0xff) {
			return true
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false
}

// Close ends the watch.
func (w *Watch) Close() error {
	err := w.f.Close()
	w.wg.Wait()
	return err
}
