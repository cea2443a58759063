package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/client"
)

// Explain turns a connection that failed into what is wrong and what mends it.
// Other errors are returned as they are.
func (c *Connection) Explain(err error) error {
	if err == nil || c == nil || IsUnreachable(err) {
		return err
	}
	if c.dialErr == nil && !client.IsErrConnectionFailed(err) {
		return err
	}
	cause := c.dialErr
	if cause == nil {
		cause = err
	}
	if !isSocket(c.Endpoint.Host) {
		return &unreachable{text: c.Endpoint.headline() + "\n" + reason(cause), cause: err}
	}
	path := strings.TrimPrefix(c.Endpoint.Host, "unix://")
	return &unreachable{text: c.Endpoint.headline() + "\n" + explainSocket(path, c.Endpoint.isDocker(), cause), cause: err}
}

// unreachable replaces the client's text and keeps its error.
type unreachable struct {
	text  string
	cause error
}

func (u *unreachable) Error() string { return u.text }
func (u *unreachable) Unwrap() error { return u.cause }

// IsUnreachable says whether no engine answered.
func IsUnreachable(err error) bool {
	var u *unreachable
	return errors.As(err, &u)
}

// isDocker says whether the address is a Docker daemon's own.
func (ep *Endpoint) isDocker() bool { return strings.HasSuffix(ep.Host, "/docker.sock") }

func (ep *Endpoint) headline() string {
	if ep.isDocker() {
		return fmt.Sprintf("Cannot connect to the Docker daemon at %s. Is the docker daemon running?", ep.Host)
	}
	return fmt.Sprintf("Cannot connect to the Hezi daemon at %s. Is hezid running?", ep.Host)
}

// reason is what the network said, with what often is the cause.
func reason(err error) string {
	text := strings.TrimSpace(err.Error())
	if _, said, ok := strings.Cut(text, "stderr="); ok && strings.TrimSpace(said) != "" {
		return "ssh said: " + strings.TrimSpace(said) // the rest is the command line
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		text = op.Err.Error()
	}
	text = "The connection failed: " + text
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return text + "\nCheck the name of the host in -H, HEZI_HOST or the context."
	case errors.Is(err, syscall.ECONNREFUSED):
		return text + "\nNothing listens there: start hezid on that machine with -H tcp://ADDRESS:PORT, or check the port (2375, or 2376 with TLS)."
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return text + "\nThe host does not answer: it is down, or a firewall is between."
	}
	return text
}

// explainSocket says why a local socket could not be opened.
func explainSocket(path string, docker bool, err error) string {
	start := startAdvice("/", docker)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Sprintf("There is no socket %s: the daemon is not running, or listens elsewhere (see -H and HEZI_HOST).\n%s", path, start)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("The socket %s is there, but nothing listens on it: the daemon was stopped or has crashed.\n%s", path, start)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return explainDenied(path, docker)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Sprintf("The daemon does not accept connections on %s: it is overloaded or hangs. See its log, and restart it if that lasts.", path)
	}
	return reason(err)
}

// programDirs are where daemons are, which a user's PATH may lack.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// unitDirs are where systemd looks for units.
var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

func isIn(dirs []string, name string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// startAdvice says how the daemon is started, or that it is not here. root is that of
// the file system.
func startAdvice(root string, docker bool) string {
	service, program := "hezi", "hezid"
	if docker {
		service, program = "docker", "dockerd"
	}
	below := func(dirs []string) (out []string) {
		for _, dir := range dirs {
			out = append(out, filepath.Join(root, dir))
		}
		return out
	}
	if isIn([]string{root}, "run/systemd/system") && isIn(below(unitDirs), service+".service") {
		return fmt.Sprintf("Start it with: sudo systemctl start %s   (its log: journalctl -u %s)", service, service)
	}
	if _, err := exec.LookPath(program); err != nil && !isIn(below(programDirs), program) {
		return fmt.Sprintf("%s is not installed on this machine: install it, or name another machine with -H ssh://USER@MACHINE.", program)
	}
	if os.Getuid() == 0 {
		return "Start it with: " + program
	}
	return "Start it with: sudo " + program
}

// groupAdvice is for a socket of root's: the daemon gives it to its group, where that
// is there when the daemon starts.
func groupAdvice(docker bool) string {
	group, program := "hezi", "hezid"
	if docker {
		group, program = "docker", "dockerd"
	}
	restart := "then restart " + program
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		restart = "sudo systemctl restart " + group
	}
	why, do := fmt.Sprintf("%s has not given it to the group %q: it was started before that was made, or for another group (--group).", program, group), ""
	if _, err := user.LookupGroup(group); err != nil {
		why, do = fmt.Sprintf("The group %q, to which %s gives it at its start, does not exist.", group, program), fmt.Sprintf("sudo groupadd --system %s; ", group)
	}
	return fmt.Sprintf("%s\nUse sudo, or mend it with: %ssudo usermod -aG %s $USER; %s, and log in again. (Who is in this group is as good as root.)", why, do, group, restart)
}

// explainDenied says whose the socket is and how to get access.
func explainDenied(path string, docker bool) string {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return fmt.Sprintf("You are not allowed to reach %s (%v). Try again with sudo.", path, err)
	}
	name := strconv.Itoa(int(st.Gid))
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	if st.Gid == 0 || st.Mode&0o060 != 0o060 {
		return fmt.Sprintf("You are not allowed to open %s: it belongs to root.\n%s", path, groupAdvice(docker))
	}
	if groups, err := os.Getgroups(); err == nil {
		for _, g := range groups {
			if g == int(st.Gid) {
				return fmt.Sprintf("You are not allowed to open %s, although you are in its group %q: a security module or the folder's mode forbids it.", path, name)
			}
		}
	}
	return fmt.Sprintf("You are not allowed to open %s: it belongs to the group %q, and you are not in it.\nJoin it with: sudo usermod -aG %s $USER   and log in again. (Who is in this group is as good as root.)", path, name, name)
}
