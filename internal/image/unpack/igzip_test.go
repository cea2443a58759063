package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// sample is 2 MB of which a half can be compressed.
func sample() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 2<<20)
	for i := range b {
		if i&64 == 0 {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func needIgzip(t *testing.T) string {
	t.Helper()
	path := igzip()
	if path == "" {
		t.Skip("igzip is not installed here (Debian: apt-get install isal)")
	}
	return path
}

func inGo(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }

// What Go's inflater takes, igzip takes, and the same for what is damaged.
func TestInflatersAgree(t *testing.T) {
	path := needIgzip(t)
	byProgram := func(r io.Reader) (io.ReadCloser, error) { return startInflater(path, r) }
	text := sample()
	good := zipped(t, text)
	change := func(at int) []byte {
		b := bytes.Clone(good)
		b[(at+len(b))%len(b)] ^= 0x55
		return b
	}
	for name, c := range map[string]struct {
		in   []byte
		want []byte // nil: an error that Broken knows
	}{
		"good":                {good, text},
		"two members":         {append(bytes.Clone(good), good...), append(bytes.Clone(text), text...)},
		"truncated":           {good[:len(good)/2], nil},
		"truncated at end":    {good[:len(good)-1], nil},
		"wrong checksum":      {change(-6), nil},
		"wrong length":        {change(-2), nil},
		"wrong in the middle": {change(len(good) / 2), nil},
		"wrong first block":   {change(11), nil},
	} {
		for how, open := range map[string]func(io.Reader) (io.ReadCloser, error){"Go": inGo, "igzip": byProgram} {
			t.Run(name+" by "+how, func(t *testing.T) {
				z, err := open(bufio.NewReader(bytes.NewReader(c.in)))
				var got []byte
				if err == nil {
					got, err = io.ReadAll(z)
					z.Close()
				}
				switch {
				case c.want == nil && (err == nil || !Broken(err)):
					t.Errorf("%d bytes and %v, not an error that says the data is broken", len(got), err)
				case c.want != nil && (err != nil || !bytes.Equal(got, c.want)):
					t.Errorf("%d of %d bytes, %v", len(got), len(c.want), err)
				}
			})
		}
	}
}

type counting struct {
	r     io.Reader
	reads int
}

func (c *counting) Read(b []byte) (int, error) {
	c.reads++
	return c.r.Read(b)
}

func TestDecompressTakesIgzipForWhatIsLong(t *testing.T) {
	needIgzip(t)
	for length, want := range map[int]bool{worthwhile / 2: false, 2 << 20: true} {
		r, err := DecompressKnown(bytes.NewReader(zipped(t, sample()[:length])))
		if err != nil {
			t.Fatal(err)
		}
		if _, is := r.(*inflater); is != want {
			t.Errorf("%d bytes are inflated by %T", length, r)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != int64(length) {
			t.Errorf("%d of %d bytes, %v", n, length, err)
		}
		r.Close()
	}
	r, err := Decompress(bytes.NewReader(zipped(t, sample())))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, is := r.(*inflater); is {
		t.Error("what has no digest is inflated by igzip")
	}
}

// TestIgzipGoesAway: what was there a moment ago is asked for again at each layer.
func TestIgzipGoesAway(t *testing.T) {
	real := needIgzip(t)
	dir := public(t)
	t.Setenv("PATH", dir)
	if err := os.Symlink(real, filepath.Join(dir, "igzip")); err != nil {
		t.Fatal(err)
	}
	if igzip() == "" {
		t.Fatal("it is not found")
	}
	length := func() int64 {
		t.Helper()
		r, err := DecompressKnown(bytes.NewReader(zipped(t, sample())))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, script := range []string{"", "#!/nonexistent\n", "#!/bin/sh\nexit 0\n"} {
		if err := os.Remove(filepath.Join(dir, "igzip")); err != nil {
			t.Fatal(err)
		}
		if script != "" {
			if err := os.WriteFile(filepath.Join(dir, "igzip"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if n := length(); n != 2<<20 {
			t.Errorf("%d bytes with %q", n, script)
		}
		if script == "" {
			if err := os.WriteFile(filepath.Join(dir, "igzip"), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestInflaterIsKilled(t *testing.T) {
	path := needIgzip(t)
	p, err := startInflater(path, bytes.NewReader(bytes.Repeat(zipped(t, sample()), 20)))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := io.ReadFull(p, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := p.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, p); !errors.Is(err, ErrInflater) || Broken(err) {
		t.Errorf("%v", err)
	}
}

func TestInflaterReadsItsSourceOnlyInRead(t *testing.T) {
	path := needIgzip(t)
	before := descriptors(t)
	source := &counting{r: bytes.NewReader(zipped(t, sample()))}
	p, err := startInflater(path, source)
	if err != nil {
		t.Fatal(err)
	}
	process := p.process
	if _, err := io.ReadFull(p, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	reads := source.reads
	p.Close()
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if source.reads != reads {
		t.Error("the source was read after Close")
	}
	if err := process.Signal(os.Kill); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the process after Close: %v", err)
	}
	if got := descriptors(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
}

func TestInflaterTellsOfItsSource(t *testing.T) {
	path := needIgzip(t)
	cut := errors.New("the wire is cut")
	z := zipped(t, sample())
	p, err := startInflater(path, io.MultiReader(bytes.NewReader(z[:len(z)/2]), &failing{cut}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := io.Copy(io.Discard, p); !errors.Is(err, cut) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestInflaterTakesWhatFollows(t *testing.T) {
	path := needIgzip(t)
	rest := bytes.NewReader(bytes.Repeat([]byte("no gzip"), 1<<20))
	p, err := startInflater(path, io.MultiReader(bytes.NewReader(zipped(t, sample())), rest))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n, err := io.Copy(io.Discard, p); err != nil || n != 2<<20 || rest.Len() != 0 {
		t.Errorf("%d bytes, %v, %d left", n, err, rest.Len())
	}
}

// What a hostile layer could make of a faulty inflater.
func TestInflaterIsCaged(t *testing.T) {
	dir := public(t)
	script := filepath.Join(dir, "igzip")
	victim := filepath.Join(dir, "victim")
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := errors.Join(os.Chmod(filepath.Join(dir, "socket"), 0o777),
		os.WriteFile(victim, []byte("text"), 0o666), os.Chmod(victim, 0o666), os.WriteFile(script, []byte(`#!/usr/bin/perl
$| = 1;
print "user $< $( $)\n";
open(S, "/proc/self/status"); print grep { /^(NoNewPrivs|CapEff|Seccomp):/ } <S>;
print "pid $$\n";
open(N, "/proc/self/net/dev"); <N>; <N>; print "links ", scalar(@{[<N>]}), "\n";
print "fd ", readlink("/proc/self/fd/$_") // "", "\n" for grep { -l "/proc/self/fd/$_" } 0..64;
print "wrote\n" if open(F, ">", "`+dir+`/written");
print "wrote\n" if open(F, ">>", "`+victim+`");
print "truncated\n" if truncate("`+victim+`", 0);
print "made\n" if mkdir("`+dir+`/made");
use Socket; print "socket\n" if socket(S2, PF_UNIX, SOCK_STREAM, 0);
`), 0o755)); err != nil {
		t.Fatal(err)
	}
	// What this test inherited itself is not the subject.
	if err := unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	p, err := startInflater(script, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b, err := io.ReadAll(p)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	for _, want := range []string{"user 2147400107 2147400107 2147400107", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t0000000000000000\n", "pid 1\n", "links 1\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "fd "); n > 5 { // the program's script and a file that it reads are among them
		t.Errorf("it has %d descriptors:\n%s", n, got)
	}
	for _, bad := range []string{"socket", "truncated"} {
		if strings.Contains(got, bad+"\n") {
			t.Errorf("%s:\n%s", bad, got)
		}
	}
	if strings.Contains(got, "wrote") || strings.Contains(got, "made") {
		_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
		if errno == 0 {
			t.Errorf("it writes files:\n%s", got)
		}
	}
}

// public is a folder that every user reaches and may write to.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hezi-cage-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
