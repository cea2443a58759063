package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Counts is what the kernel and the disk hold of an engine.
type Counts map[string]int

// near are the sets of the host's own networks, which are nobody's leak.
var near = regexp.MustCompile(`(?s)\n\tset near\w* \{.*?\n\t\}`)

// Count reads mounts, links, cgroups, namespaces and folders.
func (e *Engine) Count() Counts {
	c := Counts{}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	c["mounts"] = strings.Count(string(mounts), e.Dir+"/")
	c["links"] = e.countLinks()
	c["cgroups"] = countCgroups("hezi-" + e.identity())
	for name, dir := range map[string]string{
		"container folders": "data/containers", "writable layers": "data/writable",
		"run folders": "run/containers", "volumes": "data/volumes",
	} {
		entries, _ := os.ReadDir(filepath.Join(e.Dir, dir))
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), ".trash-") { // what was removed may come back
				c[name]++
			}
		}
	}
	if out, err := exec.Command("nft", "list", "table", "inet", "hezi-"+e.identity()).Output(); err == nil { // absent with iptables: false
		rules := near.ReplaceAllString(string(out), "")
		c["firewall lines and elements"] = strings.Count(rules, "\n") + strings.Count(rules, ",")
	}
	c["engine descriptors"] = descriptors(e.PID())
	keeper, holder := e.Keeper()
	c["keeper descriptors"] = descriptors(keeper)
	c["holder descriptors"] = descriptors(holder)
	return c
}

// NothingLeft compares with an earlier count, and waits for what is cleaned up
// behind an answer. slack allows a few of each kind that a pool may hold.
func (e *Engine) NothingLeft(t testing.TB, before Counts, slack int) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		now := e.Count()
		last = ""
		for _, k := range slices.Sorted(maps.Keys(now)) {
			allowed := before[k] + slack
			if k == "engine descriptors" {
				allowed += 8 // two of each of the four namespaces that are made ahead
			}
			if now[k] > allowed {
				last += fmt.Sprintf("%s: %d before, %d now\n", k, before[k], now[k])
			}
		}
		if last == "" {
			return
		}
	}
	t.Errorf("left behind:\n%s", last)
	for _, d := range e.opened() {
		if strings.Contains(last, d.of) {
			t.Logf("%s:\n%s", d.of, strings.Join(d.what, "\n"))
		}
	}
}

// opened is what the engine's programs have open, for a person to see what is too much.
func (e *Engine) opened() (all []opened) {
	keeper, holder := e.Keeper()
	for _, p := range []struct {
		of  string
		pid int
	}{{"engine descriptors", e.PID()}, {"keeper descriptors", keeper}, {"holder descriptors", holder}} {
		o := opened{of: p.of}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil {
				o.what = append(o.what, filepath.Base(l)+" "+to)
			}
		}
		all = append(all, o)
	}
	return all
}

type opened struct {
	of   string
	what []string
}

// descriptors counts what a process has open.
func descriptors(pid int) int {
	if pid == 0 {
		return 0
	}
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// identity tells the engines of a machine apart in the names that they give in
// the kernel; it follows from the roots (internal/daemon).
func (e *Engine) identity() string {
	return identity(filepath.Join(e.Dir, "data"), filepath.Join(e.Dir, "run"))
}

func identity(dataRoot, execRoot string) string { return short(dataRoot + "\x00" + execRoot) }

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:8]
}

// DropNetwork takes the firewall table and the bridge of an engine away that could not do
// so itself: with another data root than its own, which takes no more writes.
func (e *Engine) DropNetwork(dataRoot string) {
	id := identity(dataRoot, filepath.Join(e.Dir, "run"))
	_ = exec.Command("nft", "delete", "table", "inet", "hezi-"+id).Run() // either may be gone
	_ = exec.Command("ip", "link", "del", "hezi-"+short(id)).Run()
}

// countLinks counts the engine's bridge and its containers' links (internal/network).
func (e *Engine) countLinks() int {
	sum := sha256.Sum256([]byte(e.identity()))
	hash := hex.EncodeToString(sum[:])
	n := 0
	links, _ := net.Interfaces()
	for _, l := range links {
		if l.Name == "hezi-"+hash[:8] || strings.HasPrefix(l.Name, "hz"+hash[:4]+"-") {
			n++
		}
	}
	return n
}

func countCgroups(name string) int {
	n := 0
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	for _, root := range append(roots, v2...) {
		_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || !d.IsDir():
			case strings.HasPrefix(d.Name(), "spare-"): // the keeper's pool, which breathes
				return fs.SkipDir
			default:
				n++
			}
			return nil
		})
	}
	return n
}

// unmountBelow takes away what an engine that was killed left mounted.
func unmountBelow(dir string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	lines := strings.Split(string(b), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
}
