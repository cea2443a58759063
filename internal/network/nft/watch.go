package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watch restores the table when somebody else removes it.
type Watch struct {
	f  *os.File
	wg sync.WaitGroup
}

const (
	groupNftables = 7  // NFNLGRP_NFTABLES
	subsystem     = 10 // NFNL_SUBSYS_NFTABLES
)

// Watch begins to listen for deletions of tables. End it with Close.
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
	w.wg.Go(func() { w.run(t) })
	return w, nil
}

func (w *Watch) run(t *Table) {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		// A lost message (ENOBUFS) may have been the one: look.
		if err == nil && !deletesTable(buf[:n]) || t.Present() {
			continue
		}
		slog.Warn("the nft table was removed by another program, restoring it", "table", t.cfg.Table)
		if err := t.Restore(); err != nil {
			slog.Error("restore the nft table", "error", err)
		}
	}
}

// deletesTable says whether one of the messages tells of a deleted table.
func deletesTable(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false
		}
		if binary.NativeEndian.Uint16(b[4:]) == subsystem<<8|unix.NFT_MSG_DELTABLE {
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
