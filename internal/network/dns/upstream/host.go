package upstream

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"hezi/internal/network/hostfiles"
)

// Host follows the host's name servers. Their file is looked at when they are
// needed: two calls of stat cost microseconds, find every kind of replacement, a
// renamed file, a link that leads elsewhere or a mount, and a server that is gone is asked
// by no later query. A watch would have to be kept on every folder on the way.
type Host struct {
	// File is the host's resolv.conf; Resolved lists the servers behind
	// systemd-resolved's stub, for when that does not answer.
	File, Resolved string

	mu      sync.Mutex
	stamps  [2]stamp
	settled bool
	list    []netip.Addr
	gen     uint64
}

// The host's files.
const (
	HostFile     = "/etc/resolv.conf"
	ResolvedFile = "/run/systemd/resolve/resolv.conf"
)

// stamp tells one state of a file from another.
type stamp struct {
	there    bool
	dev, ino uint64
	size     int64
	m, c     syscall.Timespec
}

// settle is how old a file must be for a later change to be sure to have
// another time (a tick of the kernel's clock is at most 10 ms).
const settle = 50 * time.Millisecond

// maxServers are followed, as resolv.conf(5) has it (MAXNS).
const maxServers = 3

// Servers are those that the host asks, in its order, and a number that changes
// with them.
func (h *Host) Servers() ([]netip.Addr, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := [2]stamp{look(h.File), look(h.Resolved)}
	if h.gen > 0 && h.settled && now == h.stamps {
		return h.list, h.gen
	}
	h.stamps, h.settled = now, true
	for _, s := range now {
		if s.there && time.Since(time.Unix(s.c.Unix())) < settle {
			h.settled = false
		}
	}
	text, err := os.ReadFile(h.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && h.gen > 0 {
		h.settled = false
		return h.list, h.gen
	}
	list := firstOf(hostfiles.Servers(text))
	if len(list) == 0 { // resolv.conf(5): the name server on this machine
		list = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	if hostfiles.UsesStub(text) {
		if text, err := os.ReadFile(h.Resolved); err == nil {
			list = append(list, firstOf(hostfiles.Servers(text))...)
		}
	}
	if h.gen == 0 || !slices.Equal(list, h.list) {
		h.list, h.gen = list, h.gen+1
	}
	return h.list, h.gen
}

func firstOf(list []netip.Addr) []netip.Addr { return slices.Clip(list[:min(len(list), maxServers)]) }

func look(path string) (s stamp) {
	var st syscall.Stat_t
	if path == "" || syscall.Stat(path, &st) != nil {
		return s
	}
	return stamp{there: true, dev: st.Dev, ino: st.Ino, size: st.Size, m: st.Mtim, c: st.Ctim}
}
