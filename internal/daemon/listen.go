package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/daemon/config"
)

// listen opens every host of the configuration, and takes every socket that systemd has
// passed, named there or not: a client that connects to one would wait for ever. On an
// error none stays open.
func listen(ctx context.Context, c *config.Config, log *slog.Logger) (_ []net.Listener, err error) {
	var all []net.Listener
	defer func() {
		for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			_ = os.Unsetenv(name) // the keeper must not take the sockets for its own
		}
		if err != nil {
			for _, l := range all {
				_ = l.Close() // err says what went wrong
			}
		}
	}()
	passed, err := inherited()
	for _, p := range passed {
		all = append(all, p.Listener)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range passed {
		if err := p.give(c, log); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", p, err)
		}
		log.Info("listening", "on", p.String())
	}
	for _, host := range c.Hosts {
		scheme, addr, _ := strings.Cut(host, "://")
		var l net.Listener
		switch scheme {
		case "unix":
			if slices.ContainsFunc(passed, func(p socket) bool { return p.path() == addr }) {
				continue
			}
			l, err = listenUnix(addr, c.Group, log)
		case "tcp":
			l, err = listenTCP(ctx, addr, c, log)
		case "fd":
			err = named(passed, addr)
		}
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", host, err)
		}
		if l != nil {
			all = append(all, l)
			log.Info("listening", "on", host)
		}
	}
	return all, nil
}

// listenUnix opens a socket that root and the group may use. It is made under
// another name and renamed, so that it never exists with a wider mode.
func listenUnix(path, group string, log *slog.Logger) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is no absolute path", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close() // it was only asked whether someone listens
		return nil, errors.New("another process listens there: stop it, or choose another path with -H")
	}
	staged := path + ".new"
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: staged, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(staged, 0o660), os.Chown(staged, 0, groupID(group, log))); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(staged))
	}
	if err := os.Rename(staged, path); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(staged))
	}
	return &unixListener{UnixListener: l, path: path}, nil
}

// unixListener removes its socket's name at the end.
type unixListener struct {
	*net.UnixListener
	path string
}

func (l *unixListener) Close() error {
	err := l.UnixListener.Close()
	if rerr := os.Remove(l.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) && err == nil {
		err = rerr
	}
	return err
}

// groupID of a name or number; a missing group leaves the socket to root.
func groupID(group string, log *slog.Logger) int {
	if group == "" {
		return 0
	}
	if g, err := user.LookupGroup(group); err == nil {
		if id, err := strconv.Atoi(g.Gid); err == nil {
			return id
		}
	}
	if id, err := strconv.Atoi(group); err == nil && id >= 0 {
		return id
	}
	log.Warn("the group does not exist: only root can use the socket", "group", group, "remedy", "groupadd --system "+group+", add the users with usermod -aG "+group+" USER, then restart hezid")
	return 0
}

func listenTCP(ctx context.Context, addr string, c *config.Config, log *slog.Logger) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if !c.TLS {
		log.Warn("THE API IS OPEN WITHOUT TLS: whoever reaches this address is root on this machine", "address", addr, "remedy", "use --tlsverify with --tlscacert, --tlscert and --tlskey, or ssh:// and no tcp host")
		return l, nil
	}
	conf, err := serverTLS(c)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if !c.TLSVerify {
		log.Warn("clients of the API need no certificate: whoever reaches this address is root on this machine", "address", addr, "remedy", "use --tlsverify with --tlscacert")
	}
	return tls.NewListener(l, conf), nil
}

// serverTLS speaks HTTP/1.1 only: a stream needs the connection for itself.
func serverTLS(c *config.Config) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("the server's certificate (tlscert, tlskey): %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if !c.TLSVerify {
		return conf, nil
	}
	pem, err := os.ReadFile(c.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("the authority of clients' certificates (tlscacert): %w", err)
	}
	conf.ClientCAs = x509.NewCertPool()
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s (tlscacert) holds no certificate", c.TLSCACert)
	}
	conf.ClientAuth = tls.RequireAndVerifyClientCert
	return conf, nil
}

// firstFD is the first descriptor that systemd passes (sd_listen_fds(3)).
const firstFD = 3

// socket is one that a service manager passed.
type socket struct {
	net.Listener
	name string // sd_listen_fds_with_names(3)
	fd   int
}

// String is the socket as a host of the configuration.
func (s socket) String() string {
	if p := s.path(); p != "" {
		return "unix://" + p + " (of systemd)"
	}
	return "fd://" + s.name
}

// path of a socket in the file system; else "".
func (s socket) path() string {
	if a, ok := s.Addr().(*net.UnixAddr); ok {
		return a.Name
	}
	return ""
}

// give lets the group that was configured use the socket. That of the default is what the
// socket unit says.
func (s socket) give(c *config.Config, log *slog.Logger) error {
	path := s.path()
	if !filepath.IsAbs(path) || c.Group == config.DefaultGroup {
		return nil
	}
	return errors.Join(os.Chmod(path, 0o660), os.Chown(path, 0, groupID(c.Group, log)))
}

// inherited are the sockets that a service manager passed to this process (sd_listen_fds(3)).
func inherited() (all []socket, err error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range n {
		s := socket{fd: firstFD + i}
		if i < len(names) {
			s.name = names[i]
		}
		unix.CloseOnExec(s.fd)
		f := os.NewFile(uintptr(s.fd), "socket "+s.name)
		s.Listener, err = net.FileListener(f)
		if cerr := f.Close(); err == nil && cerr != nil {
			err = errors.Join(cerr, s.Close())
		}
		if err != nil {
			return all, fmt.Errorf("the socket that the service manager passed as descriptor %d: %w", s.fd, err)
		}
		if u, ok := s.Listener.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the name is systemd's
		}
		all = append(all, s)
	}
	return all, nil
}

// named says whether a socket of that name or number was passed; "" is any.
func named(passed []socket, which string) error {
	for _, s := range passed {
		if which == "" || which == s.name || which == strconv.Itoa(s.fd) {
			return nil
		}
	}
	if len(passed) == 0 {
		return errors.New("no sockets were passed to this process: fd:// needs a socket unit of systemd (hezi.socket)")
	}
	return fmt.Errorf("none of the %d passed sockets is %q", len(passed), which)
}
