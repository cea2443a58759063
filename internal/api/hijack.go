package api

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"

	"hezi/internal/engine"
)

// streamType is the Content-Type of a container's output. Clients before 1.42
// know one name only.
func (c *call) streamType(raw bool) string {
	if raw || c.version < 42 {
		return types.MediaTypeRawStream
	}
	return types.MediaTypeMultiplexedStream
}

// hijackStream takes the connection for a stream in both directions: 101 when
// the client asked to upgrade, else 200, as Docker answers.
func (c *call) hijackStream(contentType string) engine.Hijack {
	return func() (net.Conn, []byte, error) {
		head := "HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\n"
		if c.r.Header.Get("Upgrade") != "" {
			head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + contentType + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
			c.w.Header().Del("Content-Type")
		}
		return c.takeOver(head)
	}
}

// hijackBody takes the connection for an answer's body alone: it ends when
// the connection is closed.
func (c *call) hijackBody(contentType string) engine.Hijack {
	return func() (net.Conn, []byte, error) {
		return c.takeOver("HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\nConnection: close\r\n")
	}
}

// takeOver leaves HTTP: it returns the connection and the bytes that net/http
// had already read beyond the request.
func (c *call) takeOver(head string) (net.Conn, []byte, error) {
	conn, rw, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("the connection cannot carry a stream: %w", err)
	}
	if rec, ok := c.w.(*recorder); ok {
		rec.hijacked = true
		rec.status = http.StatusOK
	}
	buffered, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, closing(conn, err)
	}
	var out bytes.Buffer
	out.WriteString(head)
	c.w.Header().Del("Connection")
	if err := c.w.Header().Write(&out); err != nil {
		return nil, nil, closing(conn, err)
	}
	out.WriteString("\r\n")
	if _, err := conn.Write(out.Bytes()); err != nil {
		return nil, nil, closing(conn, fmt.Errorf("the client went away: %w", err))
	}
	return conn, bytes.Clone(buffered), nil
}

func closing(conn net.Conn, err error) error {
	_ = conn.Close() // err says what went wrong
	return err
}

// streamError tells a client that asked to upgrade why its stream does not
// come: Docker's clients show only what is in the stream, never the body of
// another status. last follows the text.
func (c *call) streamError(terminal bool, contentType string, cause error, last []byte) error {
	rec, ok := c.w.(*recorder)
	if !ok || rec.hijacked || c.r.Header.Get("Upgrade") == "" {
		return cause
	}
	conn, _, err := c.hijackStream(contentType)()
	if err != nil {
		return cause
	}
	defer conn.Close()
	text := []byte(cause.Error() + "\r\n")
	if !terminal {
		text = frame(stdcopy.Stderr, text)
	}
	_, _ = conn.Write(append(text, last...)) // the client may be gone
	return nil
}

// frame puts moby's 8-byte header before a piece of output.
func frame(stream stdcopy.StdType, p []byte) []byte {
	n := len(p)
	return append([]byte{byte(stream), 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, p...)
}

// exitFrame is the last frame of a stream whose client asked for the exit code.
func exitFrame(code int) []byte {
	return frame(engine.StreamExit, binary.BigEndian.AppendUint32(nil, uint32(code)))
}
