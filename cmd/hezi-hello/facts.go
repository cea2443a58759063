package main

import (
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// fact is one line of what the box looks like from inside.
type fact struct{ name, value string }

// look reads the facts below root, which is / but in tests.
func look(root string) []fact {
	status := statusFields(read(root, "proc/self/status"))
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	out := []fact{
		{"hostname", host},
		{"user", user(root)},
		{"process", "number " + strconv.Itoa(os.Getpid()) + " of its own counting"},
		{"addresses", addresses()},
		{"memory", memory(root)},
		{"processors", processors(root)},
		{"processes", limit(first(root, "sys/fs/cgroup/pids.max", "sys/fs/cgroup/pids/pids.max"), "at most ")},
		{"capabilities", capabilities(status["CapEff"])},
		{"seccomp", seccomp(status["Seccomp"])},
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		if target, err := os.Readlink(filepath.Join(root, "proc/self/ns", ns)); err == nil {
			out = append(out, fact{"namespace " + ns, strings.Trim(strings.TrimPrefix(target, ns+":"), "[]")})
		}
	}
	return out
}

func read(root, name string) string {
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return "" // an absent file is an absent fact
	}
	return strings.TrimSpace(string(b))
}

func first(root string, names ...string) string {
	for _, n := range names {
		if v := read(root, n); v != "" {
			return v
		}
	}
	return ""
}

func statusFields(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			out[k] = strings.TrimSpace(v)
		}
	}
	return out
}

func user(root string) string {
	uid := strconv.Itoa(os.Getuid())
	for line := range strings.Lines(read(root, "etc/passwd")) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == uid {
			return f[0] + " (" + uid + ")"
		}
	}
	return uid
}

func addresses() string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return "none"
	}
	var out []string
	for _, a := range list {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			out = append(out, ip.String())
		}
	}
	if len(out) == 0 {
		return "none but this box's own loopback"
	}
	return strings.Join(out, ", ")
}

// limit says what a limit file holds; v1 writes a number near 2^63 for none.
func limit(v, prefix string) string {
	n, err := strconv.ParseUint(v, 10, 64)
	switch {
	case v == "max" || err == nil && n >= 1<<62:
		return "no limit"
	case err != nil:
		return "no limit known"
	}
	return prefix + strconv.FormatUint(n, 10)
}

func memory(root string) string {
	v := first(root, "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n >= 1<<62 {
		return limit(v, "")
	}
	if n < 1<<20 {
		return "at most " + strconv.FormatUint(n>>10, 10) + " KiB"
	}
	return "at most " + strconv.FormatFloat(float64(n)/(1<<20), 'f', -1, 64) + " MiB"
}

func processors(root string) string {
	quota, period, ok := strings.Cut(read(root, "sys/fs/cgroup/cpu.max"), " ")
	if !ok {
		quota = first(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us")
		period = first(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us")
	}
	q, err := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(period, 64)
	switch {
	case quota == "max" || err == nil && q <= 0:
		return "no limit"
	case err != nil || err2 != nil || p == 0:
		return "no limit known"
	}
	return "at most " + strconv.FormatFloat(q/p, 'f', -1, 64)
}

func capabilities(hex string) string {
	n, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return "unknown"
	}
	return strconv.Itoa(bits.OnesCount64(n)) + " of the 41 that Linux knows"
}

func seccomp(mode string) string {
	switch mode {
	case "2":
		return "system calls are filtered"
	case "1":
		return "strict"
	case "0":
		return "no filter"
	}
	return "unknown"
}
