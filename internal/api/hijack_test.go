package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

// fakeStreams echoes what it gets, what came early first.
type fakeStreams struct {
	Streams
	terminal bool
}

func (f fakeStreams) Terminal(_ context.Context, ref string) (bool, error) {
	if ref == "gone" {
		return false, errdefs.ErrNotFound.WithMessage("No such container: gone")
	}
	return f.terminal, nil
}

func (f fakeStreams) Attach(_ context.Context, _ string, _ engine.AttachOptions, hijack engine.Hijack) error {
	conn, early, err := hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(early); err != nil {
		return err
	}
	_, err = io.Copy(conn, conn)
	return err
}

func (f fakeStreams) Wait(_ context.Context, _ string, _ container.WaitCondition, hijack engine.Hijack) (container.WaitResponse, error) {
	if hijack == nil {
		return container.WaitResponse{StatusCode: 7}, nil
	}
	conn, _, err := hijack()
	if err != nil {
		return container.WaitResponse{}, err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, `{"StatusCode":7}`)
	return container.WaitResponse{}, err
}

// fakeExecs fails to start what it has.
type fakeExecs struct {
	Execs
	tty bool
}

func (f fakeExecs) ExecInspect(_ context.Context, id string) (container.ExecInspectResponse, error) {
	if id == "gone" {
		return container.ExecInspectResponse{}, errdefs.ErrNotFound.WithMessage("No such exec instance: gone")
	}
	code := 127
	return container.ExecInspectResponse{ID: id, ExitCode: &code, ProcessConfig: &container.ExecProcessConfig{Tty: f.tty}}, nil
}

func (f fakeExecs) ExecCreate(context.Context, string, engine.ExecConfig) (string, error) {
	return "x", nil
}

func (f fakeExecs) ExecStart(context.Context, string, engine.ExecStartOptions, engine.Hijack) error {
	return errdefs.ErrInvalidArgument.WithMessage("exec: \"nosuch\": executable file not found in $PATH")
}

func serveUnix(t *testing.T, b Backend) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: newTestServer(t, b), ConnContext: ConnContext}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { srv.Close() })
	return path
}

func dial(t *testing.T, path, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Bytes that come in one piece with the request belong to the stream.
func TestHijackLosesNothing(t *testing.T) {
	path := serveUnix(t, Backend{Streams: fakeStreams{}})
	early := strings.Repeat("early ", 300)
	conn := dial(t, path, "POST /v1.47/containers/x/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"+early)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "tcp" || resp.Header.Get("Content-Type") != "application/vnd.docker.multiplexed-stream" {
		t.Fatalf("answer %d %v", resp.StatusCode, resp.Header)
	}
	if resp.Header.Get("Api-Version") != "1.56" {
		t.Errorf("the headers of every answer are missing: %v", resp.Header)
	}
	late := strings.Repeat("late", 10000)
	go func() {
		_, _ = io.WriteString(conn, late)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != early+late {
		t.Fatalf("%d bytes came back of %d", len(got), len(early)+len(late))
	}
}

func TestStreamTypes(t *testing.T) {
	for _, tc := range []struct {
		version, upgrade string
		terminal         bool
		status           int
		kind             string
	}{
		{"1.41", "Connection: Upgrade\r\nUpgrade: tcp\r\n", false, 101, "application/vnd.docker.raw-stream"},
		{"1.42", "Connection: Upgrade\r\nUpgrade: tcp\r\n", false, 101, "application/vnd.docker.multiplexed-stream"},
		{"1.42", "Connection: Upgrade\r\nUpgrade: tcp\r\n", true, 101, "application/vnd.docker.raw-stream"},
		{"1.42", "", false, 200, "application/vnd.docker.multiplexed-stream"},
	} {
		path := serveUnix(t, Backend{Streams: fakeStreams{terminal: tc.terminal}})
		conn := dial(t, path, "POST /v"+tc.version+"/containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\n"+tc.upgrade+"\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tc.status || resp.Header.Get("Content-Type") != tc.kind {
			t.Errorf("%+v: %d %s", tc, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
	}
}

func TestWait(t *testing.T) {
	path := serveUnix(t, Backend{Streams: fakeStreams{}})
	for _, version := range []string{"v1.24", "v1.47"} {
		conn := dial(t, path, "POST /"+version+"/containers/x/wait?condition=removed HTTP/1.1\r\nHost: d\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(resp.Body).ReadString('}')
		if err != nil || line != `{"StatusCode":7}` {
			t.Errorf("%s: %q, %v", version, line, err)
		}
	}
	conn := dial(t, path, "POST /v1.47/containers/x/wait?condition=nonsense HTTP/1.1\r\nHost: d\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 400 {
		t.Errorf("%v %v", resp, err)
	}
}

// A failed start reaches an upgraded client in the stream, where it shows it.
func TestExecStartErrors(t *testing.T) {
	path := serveUnix(t, Backend{Execs: fakeExecs{}})
	const upgrade = "Host: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	conn := dial(t, path, "POST /v1.47/exec/x/start HTTP/1.1\r\n"+upgrade)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || len(got) < 8 || got[0] != 2 || !strings.Contains(string(got[8:]), "executable file not found") {
		t.Fatalf("stream %q, %v", got, err)
	}

	// The same start on the connection of its creation, which ends with the exit code.
	const create = `{"Cmd":["nosuch"],"AttachStdout":true}`
	conn = dial(t, path, fmt.Sprintf("POST /v1.47/containers/c/exec HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nHezi-Run: 1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(create), create))
	r = bufio.NewReader(conn)
	if resp, err = http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 || resp.Header.Get("Hezi-Exec-Id") != "x" {
		t.Fatalf("%v %v", resp, err)
	}
	got, err = io.ReadAll(r)
	if err != nil || !strings.Contains(string(got), "executable file not found") || !strings.HasSuffix(string(got), "\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x7f") {
		t.Fatalf("stream %q, %v", got, err)
	}

	conn = dial(t, path, "POST /v1.47/exec/gone/start HTTP/1.1\r\n"+upgrade)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 404 {
		t.Errorf("%v %v", resp, err)
	}
}
