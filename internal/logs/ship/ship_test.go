package ship

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"

	"hezi/internal/logs"
	"hezi/internal/logs/options"
)

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// bed is a container's folder and the room that sends its lines.
type bed struct {
	t      *testing.T
	root   string
	c      Container
	w      *logs.Writer
	n      int // lines written
	room   *Room
	logged bytes.Buffer
}

func newBed(t *testing.T, driver string, opts ...string) *bed {
	b := &bed{t: t, root: t.TempDir()}
	config := map[string]string{}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		config[k] = v
	}
	if err := options.Check(driver, config); err != nil {
		t.Fatal(err)
	}
	b.c = Container{Driver: driver, MaxFiles: 5, Info: options.Info{Config: config, ContainerID: containerID, ContainerName: "/web", ContainerImageName: "nginx",
		ContainerImageID: "sha256:11", ContainerLabels: map[string]string{"app": "shop"}, LogPath: filepath.Join(b.root, "containers", "c", "local-logs", "container.log")}}
	var err error
	if b.w, err = logs.Open(logs.Config{Driver: "local", Path: b.c.Info.LogPath, MaxSize: 3000, MaxFiles: 5, Compress: true}, 0); err != nil {
		t.Fatal(err)
	}
	b.open()
	t.Cleanup(func() { b.room.Close(); b.w.Close() })
	return b
}

func (b *bed) open() {
	b.t.Helper()
	var err error
	if b.room, err = Open(filepath.Join(b.root, "unsent"), slog.New(slog.NewTextHandler(&b.logged, nil))); err != nil {
		b.t.Fatal(err)
	}
}

// say logs n lines, each with a number.
func (b *bed) say(n int) {
	b.t.Helper()
	for range n {
		b.n++
		b.put(fmt.Sprintf("line %d\n", b.n), "stdout")
	}
}

func (b *bed) put(text, stream string) {
	b.t.Helper()
	for rest := []byte(text); ; {
		n, full, err := b.w.Append(stream, b.w.Stamp(), rest, true, false)
		if err != nil {
			b.t.Fatal(err)
		}
		if rest = rest[n:]; !full {
			return
		}
		if err := b.w.Rotate(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// box collects what a receiver got.
type box struct {
	mu   sync.Mutex
	got  []string
	conn net.Conn // the last
	l    net.Listener
}

func (x *box) add(s string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got = append(x.got, s)
}

func (x *box) all() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.got)
}

// close is a receiver that dies.
func (x *box) close() {
	x.l.Close()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.conn != nil {
		x.conn.Close()
	}
}

// listen serves connections with serve; an address in use is tried again.
func (x *box) listen(t *testing.T, network, address string, conf *tls.Config, serve func(net.Conn, *box)) string {
	t.Helper()
	var err error
	for range 100 {
		if x.l, err = net.Listen(network, address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	address = x.l.Addr().String()
	l := x.l
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	t.Cleanup(func() { x.close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			x.mu.Lock()
			x.conn = c
			x.mu.Unlock()
			go serve(c, x)
		}
	}()
	return address
}

var numbered = regexp.MustCompile(`line ([0-9]+)`)

// numbers are those of the lines that came, each once.
func (x *box) numbers() (list []int) {
	seen := map[int]bool{}
	for _, s := range x.all() {
		if m := numbered.FindStringSubmatch(s); m != nil {
			n, _ := strconv.Atoi(m[1])
			if !seen[n] {
				list = append(list, n)
			}
			seen[n] = true
		}
	}
	return list
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

// await waits for all lines up to n, in their order.
func (x *box) await(b *bed, n int) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("%d lines", n), func() bool { return len(x.numbers()) >= n })
	for i, k := range x.numbers() {
		if k != i+1 {
			b.t.Fatalf("place %d has line %d: %v", i+1, k, x.numbers())
		}
	}
}

func readLines(c net.Conn, x *box) {
	r := bufio.NewReader(c)
	for {
		s, err := r.ReadString('\n')
		if err != nil {
			return
		}
		x.add(strings.TrimSuffix(s, "\n"))
	}
}

func readZeros(c net.Conn, x *box) {
	r := bufio.NewReader(c)
	for {
		s, err := r.ReadString(0)
		if err != nil {
			return
		}
		x.add(strings.TrimSuffix(s, "\x00"))
	}
}

// readForward is a small Fluentd.
func readForward(c net.Conn, x *box) {
	r := msgp.NewReader(c)
	for {
		m, err := r.ReadIntf()
		if err != nil {
			return
		}
		list := m.([]any)
		entries, opts := list[1].([]any), list[2].(map[string]any)
		for _, e := range entries {
			text, err := json.Marshal(e.([]any)[1])
			if err != nil {
				return
			}
			x.add(list[0].(string) + " " + string(text))
		}
		if chunk, ok := opts["chunk"]; ok {
			b := msgp.AppendString(msgp.AppendString(msgp.AppendMapHeader(nil, 1), "ack"), chunk.(string))
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// Lines wait for a receiver that is away, is killed, or comes after the engine
// was killed and the container removed; none is lost, and their order stays.
func TestReceiverThatComesAndGoes(t *testing.T) {
	for _, c := range []struct {
		name, driver, address string
		serve                 func(net.Conn, *box)
		opts                  []string
	}{
		{"syslog", "syslog", "syslog-address=tcp://", readLines, []string{"syslog-format=rfc5424micro"}},
		{"gelf", "gelf", "gelf-address=tcp://", readZeros, []string{"gelf-tcp-max-reconnect=1000", "gelf-tcp-reconnect-delay=0"}},
		{"fluentd", "fluentd", "fluentd-address=", readForward, []string{"fluentd-retry-wait=10ms"}},
		{"fluentd with acknowledgements", "fluentd", "fluentd-address=", readForward, []string{"fluentd-retry-wait=10ms", "fluentd-request-ack=true", "fluentd-buffer-limit=100"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := &box{}
			address := x.listen(t, "tcp", "127.0.0.1:0", nil, c.serve)
			x.close()
			b := newBed(t, c.driver, append(c.opts, c.address+address)...)
			b.say(20)
			b.room.Follow(b.c)
			time.Sleep(50 * time.Millisecond) // it finds nobody
			x.listen(t, "tcp", address, nil, c.serve)
			x.await(b, 20)
			b.say(30)
			x.await(b, 50)
			x.close()
			b.say(20)
			x.listen(t, "tcp", address, nil, c.serve)
			x.await(b, 70)
			eventually(t, "a stored place", func() bool { // or they would come twice
				p, err := loadPlace(b.c.folder())
				return err == nil && p == (logs.Place{First: p.First, Offset: b.w.End().Off})
			})
			b.room.Close()
			b.say(20)
			before := len(x.all())
			b.open()
			b.room.Follow(b.c)
			x.await(b, 90)
			if n := len(x.all()) - before; n != 20 {
				t.Errorf("%d messages after the engine's restart, want 20", n)
			}
			x.close()
			b.say(10)
			if c.driver != "gelf" {
				time.Sleep(100 * time.Millisecond) // it has read them, and tries
			}
			if err := b.room.Release(containerID); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(b.c.folder()); err != nil {
				t.Fatal(err)
			}
			b.room.Close()
			b.open()
			x.listen(t, "tcp", address, nil, c.serve)
			x.await(b, 100)
			eventually(t, "the end of what was left", func() bool {
				list, err := os.ReadDir(filepath.Join(b.root, "unsent"))
				return err == nil && len(list) == 0
			})
		})
	}
}

// What rotation has deleted before it could be sent is said.
func TestRotatedAwayIsSaid(t *testing.T) {
	x := &box{}
	address := x.listen(t, "tcp", "127.0.0.1:0", nil, readLines)
	b := newBed(t, "syslog", "syslog-address=tcp://"+address)
	b.room.Follow(b.c)
	b.say(5)
	x.await(b, 5)
	b.room.Close()
	b.say(500)
	b.open()
	b.room.Follow(b.c)
	eventually(t, "the last line", func() bool { n := x.numbers(); return n[len(n)-1] == 505 })
	b.room.Close()
	if text := b.logged.String(); !strings.Contains(text, "rotated away before the receiver took them") || !strings.Contains(text, containerID) {
		t.Errorf("hezid's log: %s", text)
	}
}

func TestReleaseOfWhatWasSent(t *testing.T) {
	x := &box{}
	address := x.listen(t, "tcp", "127.0.0.1:0", nil, readLines)
	b := newBed(t, "syslog", "syslog-address=tcp://"+address)
	b.room.Follow(b.c)
	b.say(3)
	x.await(b, 3)
	eventually(t, "a stored place", func() bool { p, err := loadPlace(b.c.folder()); return err == nil && !p.First.IsZero() })
	if err := b.room.Release(containerID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.c.Info.LogPath); err != nil {
		t.Errorf("the file of a container that is removed was moved for nothing: %v", err)
	}
}

// What removed containers leave has bounds: the oldest is given up, and that is said.
func TestWhatIsLeftIsBounded(t *testing.T) {
	for name, bound := range map[string]func(*Room){"containers": func(r *Room) { r.maxLeft = 2 }, "bytes": func(r *Room) { r.maxBytes = 30_000 }} {
		b := newBed(t, "syslog", "syslog-address=tcp://127.0.0.1:1")
		bound(b.room)
		for id := range 3 {
			c := b.c
			c.Info.ContainerID = strconv.Itoa(id)
			c.Info.LogPath = filepath.Join(b.root, "containers", c.Info.ContainerID, "local-logs", "container.log")
			w, err := logs.Open(logs.Config{Driver: "local", Path: c.Info.LogPath, MaxFiles: 5}, 0)
			if err != nil {
				t.Fatal(err)
			}
			b.w.Close()
			b.w = w
			b.put(strings.Repeat("x", 10_000)+"\n", "stdout")
			b.room.Follow(c)
			if err := b.room.Release(c.Info.ContainerID); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // times of their own
		}
		list, err := os.ReadDir(filepath.Join(b.root, "unsent"))
		if err != nil || len(list) != 2 || list[0].Name() != "1" {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		b.room.Close()
		if text := b.logged.String(); !strings.Contains(text, "given up") || !strings.Contains(text, "container=0") {
			t.Errorf("%s: hezid's log: %s", name, text)
		}
	}
}

// A receiver that is away costs no memory for what waits for it.
func TestNothingIsHeldForAReceiverThatIsAway(t *testing.T) {
	b := newBed(t, "syslog", "syslog-address=tcp://127.0.0.1:1")
	b.say(50)
	b.room.Follow(b.c)
	s := b.room.ships[containerID]
	time.Sleep(time.Second)
	s.cancel()
	<-s.done
	if s.tries < 2 || s.cursor.Place() != s.sent || s.sent.Offset != 0 {
		t.Errorf("after %d tries the cursor is at %v, sent is %v", s.tries, s.cursor.Place(), s.sent)
	}
}

func TestSyslogFormats(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	h := regexp.QuoteMeta(host)
	pid := strconv.Itoa(os.Getpid())
	for format, want := range map[string][2]string{
		"":             {`^<158>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d web\[` + pid + `\]: out$`, `^<155>.* web\[\d+\]: err$`},
		"rfc3164":      {`^<158>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d ` + h + ` web\[` + pid + `\]: out$`, `^<155>.* web\[\d+\]: err$`},
		"rfc5424":      {`^<158>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) ` + h + ` web ` + pid + ` web - out$`, `^<155>1 .* err$`},
		"rfc5424micro": {`^<158>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d) ` + h + ` web ` + pid + ` web - out$`, `^<155>1 .* err$`},
	} {
		x := &box{}
		address := x.listen(t, "tcp", "127.0.0.1:0", nil, readLines)
		b := newBed(t, "syslog", "syslog-address=tcp://"+address, "syslog-facility=local3", "tag={{.Name}}", "syslog-format="+format)
		b.put("out\n", "stdout")
		b.put("\n", "stdout")
		b.put("err\n", "stderr")
		b.room.Follow(b.c)
		eventually(t, "two messages", func() bool { return len(x.all()) == 2 })
		for i, s := range x.all() {
			if !regexp.MustCompile(want[i]).MatchString(s) {
				t.Errorf("%q: %s, want %s", format, s, want[i])
			}
		}
	}
}

// datagrams collects packets.
func datagrams(t *testing.T, network, address string) (*box, string) {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	x := &box{}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			x.add(string(b[:n]))
		}
	}()
	return x, c.LocalAddr().String()
}

func TestSyslogByDatagrams(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		at := "127.0.0.1:0"
		if network == "unixgram" {
			at = filepath.Join(t.TempDir(), "log")
		}
		x, address := datagrams(t, network, at)
		b := newBed(t, "syslog", "syslog-address="+network+"://"+address)
		b.say(20)
		b.room.Follow(b.c)
		x.await(b, 20)
	}
	x := &box{}
	address := x.listen(t, "unix", filepath.Join(t.TempDir(), "stream"), nil, readLines)
	b := newBed(t, "syslog", "syslog-address=unix://"+address)
	b.say(20)
	b.room.Follow(b.c)
	x.await(b, 20)
}

func TestSyslogByTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	counted := func(c net.Conn, x *box) { // RFC 5425
		r := bufio.NewReader(c)
		for {
			s, err := r.ReadString(' ')
			if err != nil {
				return
			}
			n, err := strconv.Atoi(strings.TrimSpace(s))
			if err != nil {
				x.add("no length: " + s)
				return
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				return
			}
			x.add(string(b))
		}
	}
	x := &box{}
	address := x.listen(t, "tcp", "127.0.0.1:0", conf, counted)
	for _, o := range []string{"syslog-tls-ca-cert=" + ca, "syslog-tls-skip-verify=true"} {
		x.mu.Lock()
		x.got = nil
		x.mu.Unlock()
		b := newBed(t, "syslog", "syslog-address=tcp+tls://"+address, "syslog-format=rfc5424", o)
		b.say(20)
		b.room.Follow(b.c)
		x.await(b, 20)
	}
	b := newBed(t, "syslog", "syslog-address=tcp+tls://"+address, "syslog-format=rfc5424")
	if _, err := connect(context.Background(), &b.c); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a receiver without a certificate that is trusted: %v", err)
	}
}

// rsyslog is Debian's receiver.
func TestSyslogToRsyslog(t *testing.T) {
	program, err := exec.LookPath("rsyslogd")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/rsyslogd")
	}
	if err != nil {
		t.Skip("this machine has no rsyslogd: install the package rsyslog")
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	conf := filepath.Join(dir, "conf")
	out := filepath.Join(dir, "out")
	text := fmt.Sprintf("module(load=\"imtcp\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"%s\")\nglobal(workDirectory=\"%s\")\ntemplate(name=\"t\" type=\"string\" string=\"%%syslogtag%% %%syslogfacility-text%%.%%syslogseverity-text%% %%msg%%\\n\")\n*.* action(type=\"omfile\" file=\"%s\" template=\"t\" fileCreateMode=\"0644\")\n", port, dir, out)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() func() {
		cmd := exec.Command(program, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			late := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
			defer late.Stop()
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Logf("rsyslogd: %v: %s", err, said.String())
			}
		}
	}
	stop := start()
	b := newBed(t, "syslog", "syslog-address=tcp://127.0.0.1:"+port, "syslog-format=rfc5424", "syslog-facility=local2", "tag={{.Name}}")
	b.room.Follow(b.c)
	x := &box{}
	read := func() bool {
		raw, err := os.ReadFile(out)
		x.mu.Lock()
		x.got = strings.Split(strings.TrimSpace(string(raw)), "\n")
		x.mu.Unlock()
		return err == nil && len(x.numbers()) == b.n
	}
	b.say(50)
	eventually(t, "fifty lines", read)
	stop()
	b.say(50)
	defer start()()
	eventually(t, "a hundred lines", read)
	x.await(b, 100)
	if s := x.all()[0]; !regexp.MustCompile(`^web\[\d+\]:? local2.info ?line 1$`).MatchString(s) {
		t.Errorf("%q", s)
	}
}

// A receiver that takes no datagrams any more does not hold up the engine's end.
func TestDatagramsThatHang(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := newBed(t, "syslog", "syslog-address=unixgram://"+path)
	b.say(100) // more than the socket holds (net.unix.max_dgram_qlen), unless the host changed that
	b.room.Follow(b.c)
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	b.room.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

// What needs more than 128 datagrams is cut: it must not hold up what follows.
func TestGELFTooLarge(t *testing.T) {
	for name, change := range map[string]func(*options.Info){
		"the line": func(*options.Info) {},
		"a field":  func(i *options.Info) { i.ContainerEntrypoint = strings.Repeat("x", 1<<20) },
		"many fields": func(i *options.Info) {
			for k := range 5000 {
				i.ContainerLabels[fmt.Sprintf("%060d", k)] = "v"
			}
		},
	} {
		b := newBed(t, "gelf", "gelf-address=udp://127.0.0.1:1", "gelf-compression-type=none", "labels-regex=0")
		change(&b.c.Info)
		out, err := newGELF(t.Context(), &b.c)
		if err != nil {
			t.Fatal(err)
		}
		defer out.close()
		g := out.(*gelf)
		for _, text := range []string{strings.Repeat("\x00", 40000), "short"} {
			g.batch, g.ends = nil, nil
			if err := g.add(&message{Entry: &logs.Entry{Stream: "stdout"}, text: []byte(text)}); err != nil {
				t.Fatal(err)
			}
			var joined []byte
			begin := 0
			for _, end := range g.ends {
				if len(g.ends) > 1 {
					begin += gelfHeader
				}
				joined = append(joined, g.batch[begin:end]...)
				begin = end
			}
			var m map[string]any
			if err := json.Unmarshal(joined, &m); err != nil || len(g.ends) > gelfParts {
				t.Fatalf("%s: %d datagrams: %v", name, len(g.ends), err)
			}
			if got, _ := m["short_message"].(string); got == "" || !strings.HasPrefix(text, got) || text == "short" && name != "many fields" && got != text {
				t.Errorf("%s: the text is %.20q of %d bytes", name, got, len(got))
			}
		}
	}
}

func TestGELFByUDP(t *testing.T) {
	for _, kind := range []string{"gzip", "zlib", "none"} {
		x, address := datagrams(t, "udp", "127.0.0.1:0")
		b := newBed(t, "gelf", "gelf-address=udp://"+address, "gelf-compression-type="+kind, "gelf-compression-level=9", "labels=app", "tag=t")
		long := make([]byte, 6000)
		rand.Read(long)
		b.put("short\n", "stderr")
		b.put(fmt.Sprintf("%x\n", long), "stdout")
		b.room.Follow(b.c)
		var first, second map[string]any
		eventually(t, kind, func() bool {
			all := x.all()
			if len(all) < 2 || all[1][:2] != "\x1e\x0f" || len(all) < 1+int(all[1][11]) {
				return false
			}
			var joined []byte
			for _, p := range all[1:] {
				joined = append(joined, p[12:]...)
			}
			first, second = inflate(t, kind, []byte(all[0])), inflate(t, kind, joined)
			return true
		})
		if first["short_message"] != "short" || first["level"] != 3.0 || first["_app"] != "shop" || first["_tag"] != "t" || first["version"] != "1.1" ||
			first["_container_name"] != "web" || first["_container_id"] != containerID || first["_image_name"] != "nginx" {
			t.Errorf("%s: %v", kind, first)
		}
		if second["short_message"] != fmt.Sprintf("%x", long) || second["level"] != 6.0 {
			t.Errorf("%s: the long message is another", kind)
		}
	}
}

func inflate(t *testing.T, kind string, b []byte) (m map[string]any) {
	t.Helper()
	var r io.Reader = bytes.NewReader(b)
	var err error
	switch kind {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zlib":
		r, err = zlib.NewReader(r)
	}
	if err == nil {
		err = json.NewDecoder(r).Decode(&m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A line of several records comes as Docker's driver sends it.
func TestFluentdParts(t *testing.T) {
	x := &box{}
	path := filepath.Join(t.TempDir(), "fluent")
	x.listen(t, "unix", path, nil, readForward)
	b := newBed(t, "fluentd", "fluentd-address=unix://"+path, "fluentd-sub-second-precision=true", "tag=docker.{{.Name}}", "labels=app")
	b.put("one", "stdout")
	b.put("other\n", "stderr")
	b.put("two\n", "stdout")
	b.room.Follow(b.c)
	eventually(t, "three messages", func() bool { return len(x.all()) == 3 })
	for i, want := range []string{
		`^docker.web \{"app":"shop","container_id":"` + containerID + `","container_name":"/web","log":"one","partial_id":"[0-9a-f]{64}","partial_last":"false","partial_message":"true","partial_ordinal":"1","source":"stdout"\}$`,
		`"log":"other","source":"stderr"\}$`,
		`"log":"two","partial_id":"[0-9a-f]{64}","partial_last":"true","partial_message":"true","partial_ordinal":"2","source":"stdout"`,
	} {
		if got := x.all()[i]; !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
