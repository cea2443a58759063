// Package ahead serves the shortest command lines before the client's
// libraries are initialised, which costs twice what such a command does
// (docs/adr/0007-ahead-of-the-libraries.md).
//
// Go initialises packages in the order of their import paths, each as soon as
// what it imports is ready. This one imports next to nothing, and so its init
// runs before those of net/http, cobra, Docker's client and 90 others. It takes
// a command line only where it knows that the usual way would send the very
// same request, and it ends the process only where all went well and soon.
// Everything else goes on in the usual way, which finds here what was sent:
//
//	           init                               main
//	unusual ─────────────────────────────────────▶ the usual way, from the start
//	usual ──▶ request sent ──▶ answer and exit
//	                      └──▶ refused, failed, ──▶ Take: the usual way goes on
//	                           late, too large      with the same connection
//
// So no error, no flag and no help text is known here, and a request is sent
// once. A global flag before the command keeps this package out of it.
package ahead

import (
	"os"
	"syscall"
	"time"
)

// grace is how long the process is served here. Then the usual way goes on,
// which catches signals; until then the kernel ends the process as they ask.
const grace = 100 * time.Millisecond

// defaultSocket is where hezid listens, see endpoint.DefaultHost.
const defaultSocket = "/run/hezi/hezi.sock"

// Asked is a request that was sent before main, and what was read of its answer.
type Asked struct {
	FD int    // the connection, which blocks; the taker closes it
	ID string // the exec's, once the head of the answer was read

	end  time.Time
	buf  [16 << 10]byte
	r, w int // buf[r:w] was read and not used
}

// Rest is what was read and not used. It begins with the head where ID is "".
func (a *Asked) Rest() []byte { return a.buf[a.r:a.w] }

// pending is what Take returns; nil: nothing was sent, or it was taken.
var pending *Asked

// Take returns what was sent before main, once.
func Take() *Asked {
	a := pending
	pending = nil
	return a
}

// Pending says whether something was sent before main and not taken.
func Pending() bool { return pending != nil }

func init() {
	if len(os.Args) < 4 || os.Args[1] != "exec" {
		return
	}
	path, ok := socket()
	if !ok {
		return
	}
	request, ok := execRequest(os.Args[2], os.Args[3:])
	if !ok {
		return
	}
	fd, err := dial(path)
	if err != nil {
		return
	}
	pending = &Asked{FD: fd, end: time.Now().Add(grace)}
	if !pending.send(request) {
		return // the usual way sees it when it reads
	}
	if code, ok := pending.serve(); ok {
		os.Exit(code)
	}
}

func (a *Asked) send(request []byte) bool {
	for len(request) > 0 {
		n, err := syscall.Write(a.FD, request)
		if err != nil && err != syscall.EINTR {
			return false
		}
		request = request[max(n, 0):]
	}
	return true
}

// socket is the path of the engine's local socket, if nothing in the
// environment or in the client's configuration asks for more than that.
func socket() (path string, ok bool) {
	for _, name := range []string{"DOCKER_API_VERSION", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"} {
		if os.Getenv(name) != "" {
			return "", false
		}
	}
	config := os.Getenv("DOCKER_CONFIG")
	if config == "" {
		home := os.Getenv("HOME")
		if home == "" {
			return "", false
		}
		config = home + "/.docker"
	}
	var st syscall.Stat_t
	if syscall.Stat(config+"/config.json", &st) != syscall.ENOENT {
		return "", false // headers, detach keys, a context, or an error
	}
	host := os.Getenv("HEZI_HOST")
	if host == "" {
		host = os.Getenv("DOCKER_HOST")
	}
	if host == "" {
		return defaultSocket, true
	}
	const scheme = "unix://"
	if len(host) <= len(scheme) || host[:len(scheme)] != scheme || host[len(scheme)] != '/' || !plain(host) {
		return "", false
	}
	return host[len(scheme):], true
}

// plain: visible ASCII and nothing else, so that nobody trims or escapes it.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// dial connects and lets no call on the connection last longer than grace.
func dial(path string) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := syscall.NsecToTimeval(int64(grace))
	for _, opt := range []int{syscall.SO_SNDTIMEO, syscall.SO_RCVTIMEO} {
		if err == nil {
			err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, opt, &limit)
		}
	}
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	}
	if err != nil {
		_ = syscall.Close(fd) // nothing was sent
	}
	return fd, err
}
