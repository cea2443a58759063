package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	maxRequest     = 16 << 10         // bytes of request line and headers
	maxConnections = 128              // at once; more wait in the kernel's queue
	patience       = 10 * time.Second // for a whole request and answer
)

// serve answers HTTP until ctx ends; then it returns at once.
func serve(ctx context.Context, port uint64, out io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.FormatUint(port, 10))
	if err != nil {
		return fmt.Errorf("cannot listen on port %d: %w", port, err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	fmt.Fprintf(out, "hello: serving on port %d\n", l.Addr().(*net.TCPAddr).Port)
	slots := make(chan struct{}, maxConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			<-slots
			select { // such as too many open files
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		go func() {
			defer func() { <-slots }()
			answer(conn)
		}()
	}
}

// answer reads one request and answers it. The connection is closed after.
func answer(conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	limited := &io.LimitedReader{R: conn, N: maxRequest}
	method, path, ok := request(bufio.NewReaderSize(limited, 4096))
	if !ok && limited.N > 0 {
		if method == "" {
			return // closed or timed out before a request came
		}
		respond(conn, "GET", "400 Bad Request", "text/plain", "This is not a request of HTTP/1.\n")
		return
	}
	switch {
	case !ok:
		respond(conn, "GET", "431 Request Header Fields Too Large", "text/plain", "The request is too large.\n")
	case method != "GET" && method != "HEAD":
		respond(conn, method, "405 Method Not Allowed", "text/plain", "Only GET and HEAD are answered here.\n")
	case path == "/":
		respond(conn, method, "200 OK", "text/html", page(look("/")))
	case path == "/healthz":
		respond(conn, method, "200 OK", "text/plain", "ok\n")
	default:
		respond(conn, method, "404 Not Found", "text/plain", "There are only / and /healthz here.\n")
	}
	// A close with bytes unread would reset the connection before the answer
	// is read.
	if tcp, ok := conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil && conn.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.CopyN(io.Discard, conn, 1<<20)
	}
}

// request reads to the end of the headers. A method without ok is a request
// that is malformed.
func request(r *bufio.Reader) (method, path string, ok bool) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", "", false
	}
	f := strings.Fields(line)
	if len(f) != 3 || !strings.HasPrefix(f[2], "HTTP/1.") || f[1] == "" {
		return "GET", "", false
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", "", false
		}
		if strings.TrimRight(line, "\r\n") == "" {
			break
		}
	}
	path, _, _ = strings.Cut(f[1], "?")
	if rest, found := strings.CutPrefix(path, "http://"); found { // the absolute form, as to a proxy
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			path = rest[i:]
		} else {
			path = "/"
		}
	}
	return f[0], path, true
}

func respond(w io.Writer, method, status, kind, body string) {
	head := "HTTP/1.1 " + status + "\r\nContent-Type: " + kind + "; charset=utf-8\r\nContent-Length: " + strconv.Itoa(len(body)) +
		"\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
	if strings.HasPrefix(status, "405") {
		head += "Allow: GET, HEAD\r\n"
	}
	if method == "HEAD" {
		body = ""
	}
	_, _ = io.WriteString(w, head+"\r\n"+body) // a client that went away needs no answer
}
