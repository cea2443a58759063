package endpoint

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"hezi/internal/cli/ahead"
)

// ExecOwn is what Hezi adds to an exec.
type ExecOwn struct {
	// KillOnDisconnect ends all its processes when the client goes.
	KillOnDisconnect bool
}

// path is Docker's, or one that another engine does not have: it would ignore
// what it does not know.
func (o ExecOwn) path(name string) string {
	path := "/containers/" + url.PathEscape(strings.TrimSpace(name)) + "/exec"
	if o != (ExecOwn{}) {
		path = "/hezi" + path
	}
	return path
}

type execRequest struct {
	container.ExecCreateRequest
	ExecOwn
}

func (o ExecOwn) request(e client.ExecCreateOptions) execRequest {
	q := container.ExecCreateRequest{
		User: e.User, Privileged: e.Privileged, Tty: e.TTY, AttachStdin: e.AttachStdin, AttachStderr: e.AttachStderr, AttachStdout: e.AttachStdout,
		DetachKeys: e.DetachKeys, Env: e.Env, WorkingDir: e.WorkingDir, Cmd: e.Cmd,
	}
	if e.TTY && (e.ConsoleSize.Height != 0 || e.ConsoleSize.Width != 0) {
		q.ConsoleSize = &[2]uint{e.ConsoleSize.Height, e.ConsoleSize.Width}
	}
	return execRequest{q, o}
}

// ExecCreate makes an exec. Error: ErrNotHezi when the engine lacks what o asks for.
func (c *Connection) ExecCreate(ctx context.Context, name string, e client.ExecCreateOptions, o ExecOwn) (id string, err error) {
	if o == (ExecOwn{}) {
		made, err := c.Client.ExecCreate(ctx, name, e)
		return made.ID, err
	}
	var made container.ExecCreateResponse
	err = c.PostOwn(ctx, o.path(name), nil, nil, o.request(e), &made)
	return made.ID, err
}

// ExecRun asks Hezi to make and start an exec without a terminal in one
// request, before anything is negotiated. The stream that it returns ends with
// the exit code, see term.Attachment. id is empty when the engine cannot be
// reached, is not Hezi, or refuses: then nothing was started, and the usual
// requests say why. After an error the process may have been started.
func (c *Connection) ExecRun(ctx context.Context, name string, e client.ExecCreateOptions, o ExecOwn) (stream client.HijackedResponse, id string, err error) {
	if asked := ahead.Take(); asked != nil {
		return goOn(ctx, asked)
	}
	if !isSocket(c.Endpoint.Host) || os.Getenv(client.EnvOverrideAPIVersion) != "" {
		return stream, "", nil
	}
	body, err := json.Marshal(o.request(e))
	if err != nil {
		return stream, "", err
	}
	path := "/v" + client.MaxAPIVersion + o.path(name)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+client.DummyHost+path, bytes.NewReader(body))
	if err != nil {
		return stream, "", err
	}
	for k, v := range c.headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	req.Header.Set("Hezi-Run", "1")
	conn, err := c.dialSocket(ctx)
	if err != nil {
		return stream, "", nil // the usual requests fail in the same way, and explain it
	}
	sc := &socketConn{Conn: conn, r: bufio.NewReader(conn)}
	return sc.upgraded(ctx, func() (*http.Response, error) { return sc.exchange(req) })
}

// goOn is ExecRun for what was sent before main.
func goOn(ctx context.Context, asked *ahead.Asked) (stream client.HijackedResponse, id string, err error) {
	f := os.NewFile(uintptr(asked.FD), "engine")
	conn, err := net.FileConn(f)
	_ = f.Close() // conn has a descriptor of its own
	if err != nil {
		return stream, "", err
	}
	sc := &socketConn{Conn: conn, r: bufio.NewReader(io.MultiReader(bytes.NewReader(asked.Rest()), conn))}
	if asked.ID != "" {
		return client.HijackedResponse{Conn: conn, Reader: sc.r}, asked.ID, nil
	}
	return sc.upgraded(ctx, func() (*http.Response, error) { return sc.answer(nil) })
}

// upgraded is the stream that the answer to a request begins.
func (c *socketConn) upgraded(ctx context.Context, ask func() (*http.Response, error)) (stream client.HijackedResponse, id string, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	resp, err := ask()
	if !stop() {
		err = ctx.Err()
	}
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		_ = c.Close() // nothing more is wanted of it
		return stream, "", err
	}
	return client.HijackedResponse{Conn: c.Conn, Reader: c.r}, resp.Header.Get("Hezi-Exec-Id"), nil
}
