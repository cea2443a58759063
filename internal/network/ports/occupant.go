package ports

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const timeWait = "06" // TCP_TIME_WAIT in /proc/net/tcp

// occupant finds the program that has a port, in words that follow an error:
// " by nginx (process 12)". live is false if only TIME_WAIT is in the way. It
// reads all of /proc: for the way to an error only.
func occupant(addr netip.Addr, proto uint8, port uint16) (who string, live bool) {
	for _, six := range []string{"", "6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + ProtoName(proto) + six)
		if err != nil {
			continue // a kernel without IPv6
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 10 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			host, ok := hexAddr(strings.TrimSuffix(f[1], fmt.Sprintf(":%04X", port)))
			if !ok || host != addr && !host.IsUnspecified() && !addr.IsUnspecified() || proto == 6 && f[3] == timeWait {
				continue
			}
			live = true
			if who = process(f[9]); who != "" {
				return who, true
			}
		}
	}
	// A socket that is bound but does not listen is in no table.
	return who, live || !hasTimeWait(port)
}

// hasTimeWait says whether a closed connection of this port still waits.
func hasTimeWait(port uint16) bool {
	for _, six := range []string{"", "6"} {
		data, err := os.ReadFile("/proc/thread-self/net/tcp" + six)
		if err != nil {
			continue // a kernel without IPv6
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == timeWait && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}

// hexAddr reads the kernel's words, each in the host's order (little endian here).
func hexAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, false
	}
	for w := range slices.Chunk(b, 4) {
		slices.Reverse(w)
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

func process(inode string) string {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != "socket:["+inode+"]" {
			continue // ended, or another file
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		comm, err2 := os.ReadFile(dir + "/comm")
		if err != nil || err2 != nil {
			continue
		}
		return fmt.Sprintf(" by %s (process %d)", strings.TrimSpace(string(comm)), pid)
	}
	return ""
}
