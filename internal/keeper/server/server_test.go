package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/keeper"
	"hezi/internal/logs"
)

type bed struct {
	t   *testing.T
	dir string
	c   *keeper.Client
	ctx context.Context
}

// newBed runs a holder and a keeper of this test's own.
func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test must run as root")
	}
	dir, err := os.MkdirTemp("", "hezi-k-")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, dir: dir}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	b.ctx = ctx
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ident := filepath.Base(dir)
	b.c, err = keeper.EnsureRunning(ctx, keeper.EnsureOptions{ExecRoot: dir, Identity: ident, Binary: exe, Version: "test"})
	if err != nil {
		out, _ := os.ReadFile(filepath.Join(dir, "keeper", "keeper.log"))
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		defer cancel()
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		list, _ := b.c.List(ctx)
		for _, s := range list {
			_ = b.c.Signal(ctx, s.ID, "", int(unix.SIGKILL))
			_, _ = b.c.WaitExit(ctx, s.ID, keeper.WaitNotRunning)
			if err := b.c.Forget(ctx, s.ID, true); err != nil {
				t.Error(err)
			}
		}
		if err := b.c.Stop(ctx); err != nil {
			t.Error(err)
		}
		out, _ := os.ReadFile(filepath.Join(dir, "keeper", "keeper.log"))
		if len(out) > 0 {
			t.Logf("keeper.log: %.4000s", out)
		}
		for _, m := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			dirs, _ := filepath.Glob(m + "/*/hezi-" + ident)
			for _, d := range append(dirs, filepath.Join(m, "hezi-"+ident)) {
				for range 100 {
					if unix.Rmdir(filepath.Join(d, "engine")) != unix.EBUSY {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				unix.Rmdir(d)
			}
		}
		os.RemoveAll(dir)
	})
	return b
}

func (b *bed) request(id, script string) keeper.StartRequest {
	return keeper.StartRequest{
		Spec: box.Spec{ID: id, Process: box.Process{Args: []string{"sh", "-c", script}}},
		Log:  keeper.LogConfig{Driver: "json-file", Path: filepath.Join(b.dir, id+".log"), MaxFiles: 1},
	}
}

// logging is a request whose log is as in log.
func (b *bed) logging(log keeper.LogConfig, id, script string) keeper.StartRequest {
	r := b.request(id, script)
	log.Driver, log.Path = r.Log.Driver, r.Log.Path
	r.Log = log
	return r
}

func (b *bed) start(r keeper.StartRequest) keeper.Started {
	b.t.Helper()
	s, err := b.c.Start(b.ctx, r)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bed) wait(id string) box.Exit {
	b.t.Helper()
	e, err := b.c.WaitExit(b.ctx, id, keeper.WaitNotRunning)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func (b *bed) attach(r keeper.AttachRequest, buffered string) *net.UnixConn {
	b.t.Helper()
	r.Stream, r.Stdout, r.Stderr = true, true, true
	mine, theirs, err := keeper.SocketPair()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.c.Attach(b.ctx, r, theirs, []byte(buffered)); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { mine.Close() })
	mine.SetDeadline(time.Now().Add(50 * time.Second))
	return mine
}

// demux splits a framed stream.
func demux(t *testing.T, r io.Reader) (stdout, stderr []byte) {
	t.Helper()
	for {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal("frame header: ", err)
		}
		b := make([]byte, binary.BigEndian.Uint32(h[4:]))
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal("frame: ", err)
		}
		if h[0] == 2 {
			stderr = append(stderr, b...)
		} else {
			stdout = append(stdout, b...)
		}
	}
}

func (b *bed) log(id string) string {
	b.t.Helper()
	var out bytes.Buffer
	cfg := logs.Config{Driver: "json-file", Path: filepath.Join(b.dir, id+".log"), MaxFiles: 1000}
	s, err := logs.OpenSnapshot(cfg, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	if err := s.Read(b.ctx, logs.Query{Stdout: true, Stderr: true, Tail: -1}, func(e *logs.Entry) error { out.Write(e.Line); return nil }); err != nil {
		b.t.Fatal(err)
	}
	return out.String()
}

func numbers(n int) string {
	var s strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintln(&s, i)
	}
	return s.String()
}

func TestStartAttachExit(t *testing.T) {
	b := newBed(t)
	conn := b.attach(keeper.AttachRequest{ContainerID: "a", Stdin: true, NextStart: true, Starter: true}, "buffered\n")
	r := b.request("a", "cat; echo err >&2; exit 7")
	r.Spec.Process.OpenStdin, r.StdinOnce = true, true
	b.start(r)
	fmt.Fprintln(conn, "typed")
	conn.CloseWrite()
	out, errOut := demux(t, conn)
	if string(out) != "buffered\ntyped\n" || string(errOut) != "err\n" {
		t.Fatalf("got %q and %q", out, errOut)
	}
	if e := b.wait("a"); e.Code != 7 {
		t.Fatalf("exit %+v", e)
	}
	if err := b.c.Forget(b.ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	// Between the two pipes nobody knows an order.
	if got := b.log("a"); strings.Replace(got, "err\n", "", 1) != "buffered\ntyped\n" || !strings.Contains(got, "err\n") {
		t.Fatalf("log %q", got)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	b := newBed(t)
	r := b.request("a", "")
	r.Spec.Process.Args = []string{"no-such-program"}
	_, err := b.c.Start(b.ctx, r)
	var be *box.Error
	if !errors.As(err, &be) || be.ExitCode != 127 {
		t.Fatalf("error %v", err)
	}
	if err := b.c.Signal(b.ctx, "none", "", 9); !errdefs.IsNotFound(err) {
		t.Fatalf("error %v", err)
	}
}

func TestGrandchildDoesNotHoldTheEnd(t *testing.T) {
	b := newBed(t)
	conn := b.attach(keeper.AttachRequest{ContainerID: "a", NextStart: true}, "")
	b.start(b.request("a", "sleep 20 & echo $!; exit 3"))
	begin := time.Now()
	out, _ := demux(t, conn)
	if d := time.Since(begin); d > 3*time.Second {
		t.Fatalf("the end took %v", d)
	}
	var pid int
	fmt.Sscan(string(out), &pid)
	unix.Kill(pid, unix.SIGKILL)
	if e := b.wait("a"); e.Code != 3 {
		t.Fatalf("exit %+v", e)
	}
}

func TestTerminalAndDetachKeys(t *testing.T) {
	b := newBed(t)
	r := b.request("a", "stty size; while read x; do echo got $x; done")
	r.Spec.Process.Terminal = true
	conn := b.attach(keeper.AttachRequest{ContainerID: "a", Stdin: true, NextStart: true, Terminal: true, DetachKeys: []byte{16, 17}}, "")
	b.start(r)
	if err := b.c.Resize(b.ctx, "a", "", 40, 100); err != nil {
		t.Fatal(err)
	}
	conn.Write([]byte("hello\n"))
	var got []byte
	buf := make([]byte, 1000)
	for !bytes.Contains(got, []byte("got hello")) {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, buf[:n]...)
	}
	conn.Write([]byte{16})
	time.Sleep(20 * time.Millisecond)
	conn.Write([]byte{17})
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	l, err := b.c.List(b.ctx)
	if err != nil || len(l) != 1 || l[0].Exit != nil {
		t.Fatalf("%v %+v", err, l)
	}
}

func TestExecAwaitsItsAttach(t *testing.T) {
	b := newBed(t)
	b.start(b.request("a", "exec sleep 30"))
	_, err := b.c.Exec(b.ctx, keeper.ExecRequest{ContainerID: "a", ExecID: "x", AwaitAttach: true,
		Process: box.Process{Args: []string{"sh", "-c", "echo hi; exit 4"}, AttachStdout: true, AttachStderr: true}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	got, err := io.ReadAll(b.attach(keeper.AttachRequest{ContainerID: "a", ExecID: "x", Starter: true, ExitFrame: true}, ""))
	if want := "\x01\x00\x00\x00\x00\x00\x00\x03hi\n\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x04"; err != nil || string(got) != want {
		t.Fatalf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	var exit *box.Exit
	_ = b.c.Subscribe(ctx, func() {}, func(e keeper.Event) {
		if e.Type == keeper.EventExecExit {
			exit = e.Exit
			cancel()
		}
	})
	if exit == nil || exit.Code != 4 {
		t.Fatalf("exec's exit %+v", exit)
	}
}

// TestExecTakesItsClient: the client's connection comes with the exec; one that fails
// leaves it to the caller.
func TestExecTakesItsClient(t *testing.T) {
	b := newBed(t)
	b.start(b.request("a", "exec sleep 30"))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	overTCP := func() (client, ours net.Conn, err error) {
		if client, err = net.Dial("tcp", listener.Addr().String()); err == nil {
			ours, err = listener.Accept()
		}
		return client, ours, err
	}
	unixPair := func() (client, ours net.Conn, err error) {
		c, o, err := keeper.SocketPair()
		return c, o, err
	}
	for kind, pair := range map[string]func() (client, ours net.Conn, err error){"unix": unixPair, "tcp": overTCP} {
		begin := func(argv ...string) (net.Conn, net.Conn, keeper.Started, error) {
			client, ours, err := pair()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close(); ours.Close() })
			id := kind + argv[0]
			started, err := b.c.ExecFor(b.ctx, keeper.ExecRequest{ContainerID: "a", ExecID: id, AwaitAttach: true, Buffered: []byte("early "), StdinOnce: true,
				Process: box.Process{Args: argv, OpenStdin: true, AttachStdout: true, AttachStderr: true},
				Client:  &keeper.AttachRequest{ContainerID: "a", ExecID: id, Stdin: true, Stdout: true, Stderr: true, Stream: true, Starter: true, ExitFrame: true}}, ours)
			return client, ours, started, err
		}
		client, _, started, err := begin("sh", "-c", "read line; echo $line; exit 4")
		if err != nil || started.PID == 0 {
			t.Fatalf("%s: %+v, %v", kind, started, err)
		}
		fmt.Fprintln(client, "late")
		got, err := io.ReadAll(client)
		if want := "\x01\x00\x00\x00\x00\x00\x00\x0bearly late\n\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x04"; err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", kind, got, err)
		}
		client, ours, started, err := begin("no-such-program")
		if step, ok := errors.AsType[*box.Error](err); !ok || step.ExitCode != 127 || started.PID != 0 {
			t.Errorf("%s: %+v, %v", kind, started, err)
		}
		fmt.Fprint(ours, "why")
		ours.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "why" {
			t.Errorf("%s: the caller's connection says %q, %v", kind, got, err)
		}
	}
}

// TestSlowClient: a client that does not read neither stops the container nor
// fills the keeper, and later gets every byte.
func TestSlowClient(t *testing.T) {
	b := newBed(t)
	slow := b.attach(keeper.AttachRequest{ContainerID: "a", NextStart: true}, "")
	b.start(b.request("a", "seq 1 500000"))
	b.wait("a")
	info, err := b.c.Info(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if pss := pssKB(t, info.PID); pss > 40<<10 {
		t.Errorf("the keeper has %d KiB with a slow client", pss)
	}
	out, _ := demux(t, slow)
	if want := numbers(500000); string(out) != want {
		t.Fatalf("%d bytes, want %d", len(out), len(want))
	}
}

func pssKB(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kb); n == 1 {
			return kb
		}
	}
	t.Fatal("no Pss")
	return 0
}

func (b *bed) kill(pid int) {
	b.t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) info() keeper.Info {
	b.t.Helper()
	for range 500 {
		if i, err := b.c.Info(b.ctx); err == nil {
			return i
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatal("no keeper")
	return keeper.Info{}
}

// TestKeeperKilled: -9 in a loop under output, and every line is there once, in
// one file or in many that are rotated and compressed all the time.
func TestKeeperKilled(t *testing.T) {
	for name, log := range map[string]keeper.LogConfig{
		"one file":     {MaxFiles: 1},
		"rotated":      {MaxFiles: 1000, MaxSize: 30000, Compress: true},
		"non-blocking": {MaxFiles: 1000, MaxSize: 100000, Buffer: 64 << 20},
	} {
		t.Run(name, func(t *testing.T) { keeperKilled(t, log) })
	}
}

func keeperKilled(t *testing.T, log keeper.LogConfig) {
	b := newBed(t)
	const n = 300000
	b.start(b.logging(log, "a", fmt.Sprintf("i=0; while [ $i -lt 30 ]; do seq $((i*%d+1)) $((i*%d+%d)); i=$((i+1)); sleep 0.05; done; exit 9", n/30, n/30, n/30)))
	b.start(b.request("b", "cat; exit 5"))
	for range 12 {
		b.kill(b.info().PID)
		time.Sleep(130 * time.Millisecond)
	}
	if e := b.wait("a"); e.Code != 9 || e.Reason != "" {
		t.Fatalf("exit %+v", e)
	}
	if err := b.c.Forget(b.ctx, "a", false); err != nil {
		t.Fatal(err)
	}
	if got, want := b.log("a"), numbers(n); got != want {
		t.Fatalf("log has %d bytes, want %d", len(got), len(want))
	}
	if e := b.wait("b"); e.Code != 5 {
		t.Fatalf("exit %+v", e)
	}
}

// otherHolder kills the holder, and waits until the next one has been given
// everything.
func (b *bed) otherHolder() {
	b.t.Helper()
	held := func(pid int) int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			b.t.Fatal(err)
		}
		return len(list)
	}
	old := b.info().HolderPID
	all := held(old)
	b.kill(old)
	for b.info().HolderPID == old {
		time.Sleep(5 * time.Millisecond)
	}
	for deadline := time.Now().Add(30 * time.Second); held(b.info().HolderPID) < all; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the next holder has %d descriptors, the one before had %d", held(b.info().HolderPID), all)
		}
	}
}

// TestHolderKilled: the keeper goes on, starts a new one, and the exit after
// one more death of the keeper is still known.
func TestHolderKilled(t *testing.T) {
	b := newBed(t)
	b.start(b.request("a", "sleep 3; exit 6"))
	b.otherHolder()
	b.kill(b.info().PID)
	if e := b.wait("a"); e.Code != 6 {
		t.Fatalf("exit %+v", e)
	}
}

// TestUpgrade: the image is replaced under output; the client stays, every
// line is in the log once, and a broken binary is refused.
func TestUpgrade(t *testing.T) {
	b := newBed(t)
	const n = 200000
	r := b.request("a", fmt.Sprintf("i=0; while [ $i -lt 20 ]; do seq $((i*%d+1)) $((i*%d+%d)); i=$((i+1)); sleep 0.05; done; read x; echo $x; exit 2", n/20, n/20, n/20))
	r.Spec.Process.OpenStdin = true
	conn := b.attach(keeper.AttachRequest{ContainerID: "a", Stdin: true, NextStart: true}, "")
	late := b.attach(keeper.AttachRequest{ContainerID: "later", NextStart: true}, "")
	b.start(r)
	type result struct{ out []byte }
	done := make(chan result, 1)
	go func() {
		out, _ := demux(t, conn)
		done <- result{out}
	}()
	waiter, theirs, err := keeper.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	if err := b.c.Wait(b.ctx, keeper.WaitRequest{ContainerID: "a", Condition: keeper.WaitNotRunning}, theirs, nil); err != nil {
		t.Fatal(err)
	}
	reader, theirLog, err := keeper.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := b.c.Logs(b.ctx, keeper.LogsRequest{ContainerID: "a", Log: r.Log, Stdout: true, Follow: true, Tail: -1, Terminal: true}, theirLog, nil); err != nil {
		t.Fatal(err)
	}
	followed := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(reader)
		followed <- string(b)
	}()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pid := b.info().PID
	for range 4 {
		time.Sleep(100 * time.Millisecond)
		if err := b.c.Upgrade(b.ctx, exe); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.c.Upgrade(b.ctx, "/bin/false"); err == nil {
		t.Fatal("a broken keeper was taken")
	}
	if i := b.info(); i.PID != pid || i.Generation != 4 {
		t.Fatalf("keeper %+v, was %d", i, pid)
	}
	fmt.Fprintln(conn, "still here")
	want := numbers(n) + "still here\n"
	if got := <-done; string(got.out) != want {
		t.Fatalf("client got %d bytes, want %d", len(got.out), len(want))
	}
	if e := b.wait("a"); e.Code != 2 {
		t.Fatalf("exit %+v", e)
	}
	if got := <-followed; got != want {
		t.Fatalf("the follower of the log got %d bytes, want %d", len(got), len(want))
	}
	waiter.SetDeadline(time.Now().Add(5 * time.Second))
	if body, err := io.ReadAll(waiter); err != nil || string(body) != "{\"StatusCode\":2}\n" {
		t.Fatalf("wait's body %q %v", body, err)
	}
	if got := b.log("a"); got != want {
		t.Fatalf("log has %d bytes, want %d", len(got), len(want))
	}
	b.start(b.request("later", "echo late"))
	if out, _ := demux(t, late); string(out) != "late\n" {
		t.Fatalf("late client got %q", out)
	}
}

// TestUpgradeOfSlowClients: those who are behind go on where they were: an
// attached client, one that follows the log, and one in its first reading.
func TestUpgradeOfSlowClients(t *testing.T) {
	b := newBed(t)
	const n = 200000
	r := b.request("slow", fmt.Sprintf("seq %d; sleep 4; exit 2", n))
	conn := b.attach(keeper.AttachRequest{ContainerID: "slow", NextStart: true, Stdout: true, Stream: true}, "")
	b.start(r)
	readers := []*net.UnixConn{}
	for _, follow := range []bool{true, false} {
		for deadline := time.Now().Add(time.Minute); !follow && !strings.HasSuffix(b.log("slow"), fmt.Sprintf("\n%d\n", n)) && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond) // until it has written all
		}
		ours, theirs, err := keeper.SocketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		if err := b.c.Logs(b.ctx, keeper.LogsRequest{ContainerID: "slow", Log: r.Log, Stdout: true, Follow: follow, Tail: -1, Terminal: true}, theirs, nil); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, ours)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		time.Sleep(100 * time.Millisecond)
		if err := b.c.Upgrade(b.ctx, exe); err != nil {
			t.Fatal(err)
		}
	}
	want := numbers(n)
	if out, _ := demux(t, conn); string(out) != want {
		t.Errorf("the attached client got %d bytes, want %d", len(out), len(want))
	}
	for i, c := range readers {
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("reader %d of the log got %d bytes, want %d, %v", i, len(got), len(want), err)
		}
	}
	if e := b.wait("slow"); e.Code != 2 {
		t.Errorf("exit %+v", e)
	}
}

func TestMemoryOf200(t *testing.T) {
	b := newBed(t)
	b.start(b.request("first", "exec sleep 100"))
	i := b.info()
	before := pssKB(t, i.PID) + pssKB(t, i.HolderPID)
	for i := range 200 {
		b.start(b.request(fmt.Sprintf("c%d", i), "exec sleep 100"))
	}
	k, h := pssKB(t, i.PID), pssKB(t, i.HolderPID)
	t.Logf("200 containers: keeper %d KiB, holder %d KiB, %d KiB before", k, h, before)
	if (k+h-before)/200 > 300 {
		t.Errorf("more than 0.3 MB a container")
	}
}

func TestDetachScanner(t *testing.T) {
	d := &detachScanner{keys: []byte{16, 17}}
	var out []byte
	for _, c := range []byte{'a', 16, 'b', 16, 16} {
		o, end := d.scan([]byte{c})
		if end {
			t.Fatal("early")
		}
		out = append(out, o...)
	}
	if _, end := d.scan([]byte{17}); !end || string(out) != "a\x10b\x10" {
		t.Fatalf("end %v, out %q", end, out)
	}
}
