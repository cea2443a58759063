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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/daemon/config"
)

// listen opens every host of the configuration; on an error none stays open.
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
	for _, host := range c.Hosts {
		scheme, addr, _ := strings.Cut(host, "://")
		var ls []net.Listener
		switch scheme {
		case "unix":
			ls, err = one(listenUnix(addr, c.Group, log))
		case "tcp":
			ls, err = one(listenTCP(ctx, addr, c, log))
		case "fd":
			ls, err = inherited(addr)
		}
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", host, err)
		}
		all = append(all, ls...)
		log.Info("listening", "on", host)
	}
	return all, nil
}

func one(l net.Listener, err error) ([]net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
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

// inherited are the sockets that a service manager passed: all of them, or the
// one of that name or number.
func inherited(which string) ([]net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("no sockets were passed to this process: fd:// needs a socket unit of systemd (hezi.socket)")
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 {
		return nil, errors.New("no sockets were passed to this process: fd:// needs a socket unit of systemd (hezi.socket)")
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var out []net.Listener
	for i := range n {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		if which != "" && which != name && which != strconv.Itoa(firstFD+i) {
			continue
		}
		unix.CloseOnExec(firstFD + i)
		f := os.NewFile(uintptr(firstFD+i), "socket "+name)
		l, err := net.FileListener(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", firstFD+i, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the name is systemd's
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none of the %d passed sockets is %q", n, which)
	}
	return out, nil
}
