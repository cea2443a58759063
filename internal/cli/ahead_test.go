package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scripted is an engine that answers an exec which is to run at once in a
// scripted way, and little else.
type scripted struct {
	answer func(c net.Conn)

	mu    sync.Mutex
	asked []asking // guarded by mu
}

// all is what was asked so far.
func (s *scripted) all() []asking {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// asking is a request for an exec.
type asking struct {
	Path   string
	Header http.Header
	Body   map[string]any
}

const inspected = 5 // the exit code that inspect tells

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.56")
	if strings.HasSuffix(r.URL.Path, "/exec/0123/json") {
		answer(w, 200, map[string]any{"ID": "0123", "Running": false, "ExitCode": inspected})
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/exec") {
		return // a ping
	}
	a := asking{Path: r.URL.Path, Header: r.Header}
	if err := json.NewDecoder(r.Body).Decode(&a.Body); err != nil {
		refuse(w, 400, err.Error())
		return
	}
	a.Header.Del("Content-Length")
	for name, v := range a.Body { // what is not written is what is empty
		if v == nil || v == false || v == "" {
			delete(a.Body, name)
		}
	}
	s.mu.Lock()
	s.asked = append(s.asked, a)
	s.mu.Unlock()
	if r.Header.Get("Hezi-Run") == "" {
		refuse(w, 404, "No such container: box")
		return
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, 500, err.Error())
		return
	}
	defer c.Close()
	s.answer(c)
}

const started = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nHezi-Exec-Id: 0123\r\n\r\n"

func chunk(kind byte, text string) string {
	n := len(text)
	return string([]byte{kind, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + text
}

// inPieces writes pieces with a pause between, "" being a longer one.
func inPieces(pieces ...string) func(net.Conn) {
	return func(c net.Conn) {
		for _, p := range pieces {
			if p == "" {
				time.Sleep(300 * time.Millisecond)
				continue
			}
			if _, err := io.WriteString(c, p); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// What is asked before the libraries are initialised and what is asked in the
// usual way, which a global flag brings about, are the same in all that the
// engine and the user see.
func TestAheadIsAsUsual(t *testing.T) {
	one := strings.Repeat("1234567890", 2000)
	exit0, exit7 := chunk(4, "\x00\x00\x00\x00"), chunk(4, "\x00\x00\x00\x07")
	var single []string
	for _, b := range []byte(started + chunk(1, "out\n") + chunk(2, "err\n") + exit7) {
		single = append(single, string(b))
	}
	usual := inPieces(started + chunk(1, "out\n") + exit0)
	for name, c := range map[string]struct {
		answer func(net.Conn)
		args   []string
		full   bool // standard output takes nothing
	}{
		"ends well":                {answer: usual},
		"ends ill":                 {answer: inPieces(started, chunk(1, "out\n"), chunk(2, "err\n"), exit7)},
		"a large exit code":        {answer: inPieces(started + chunk(4, "\x00\x00\x01\x05"))},
		"byte by byte":             {answer: inPieces(single...)},
		"much output":              {answer: inPieces(started+chunk(1, one)+chunk(2, one), chunk(1, one), exit7)},
		"an empty frame":           {answer: inPieces(started + chunk(1, "") + exit7)},
		"input sent back":          {answer: inPieces(started + chunk(0, "in\n") + exit7)},
		"late end":                 {answer: inPieces(started+chunk(1, "out\n"), "", chunk(1, "late\n")+exit7)},
		"late within a frame":      {answer: inPieces(started+chunk(1, "out\n")[:10], "", chunk(1, "out\n")[10:]+exit7)},
		"late head":                {answer: inPieces("HTTP/1.1 101 UPGR", "", strings.TrimPrefix(started, "HTTP/1.1 101 UPGR")+exit7)},
		"no exit code":             {answer: inPieces(started + chunk(1, "out\n"))},
		"a short exit code":        {answer: inPieces(started + chunk(4, "\x00\x07"))},
		"cut within a frame":       {answer: inPieces(started + chunk(1, "out\n")[:10])},
		"cut within the head":      {answer: inPieces(started[:40])},
		"no answer":                {answer: func(net.Conn) {}},
		"no HTTP":                  {answer: inPieces("what?\r\n\r\n")},
		"a head without end":       {answer: inPieces("HTTP/1.1 101 X\r\nA: " + strings.Repeat("a", 40<<10))},
		"refused":                  {answer: inPieces("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")},
		"another engine":           {answer: inPieces("HTTP/1.1 201 Created\r\nContent-Length: 13\r\n\r\n{\"Id\":\"0123\"}")},
		"another engine's upgrade": {answer: inPieces(strings.Replace(started, "Hezi-Exec-Id: 0123\r\n", "", 1) + exit7)},
		"an error in the stream":   {answer: inPieces(started + chunk(3, "the disk burns"))},
		"a kind that nobody knows": {answer: inPieces(started + chunk(9, "x") + exit7)},
		"a frame of 2 GB":          {answer: inPieces(started + "\x01\x00\x00\x00\x7f\xff\xff\xffabc")},
		"a message of 2 GB":        {answer: inPieces(started + "\x03\x00\x00\x00\x7f\xff\xff\xffabc")},
		"a full disk":              {answer: inPieces(started + chunk(1, "out\n") + exit0), full: true},
		"words":                    {answer: usual, args: []string{"box", "sh", "-c", "echo \"a\\b\" <&> '\t'\n\x01\x7f", "", "--help", "-x", "über", "盒子"}},
		"bytes that are no text":   {answer: usual, args: []string{"box", "echo", "a\xffb"}},
		"many words":               {answer: usual, args: []string{"box", "echo", strings.Repeat("x", 40<<10)}},
		"a command of hezi":        {answer: usual, args: []string{"help", "run", "--version"}},
		"an odd name":              {answer: usual, args: []string{" a/b?c ", "true"}},
		"a flag":                   {answer: usual, args: []string{"-u", "1", "box", "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := c.args
			if args == nil {
				args = []string{"box", "true"}
			}
			first := callScripted(t, c.answer, c.full, append([]string{"exec"}, args...))
			second := callScripted(t, c.answer, c.full, append([]string{"-D", "exec"}, args...))
			if diff := cmp.Diff(second, first); diff != "" {
				t.Errorf("ahead of the libraries it is not as usual:\n%s", diff)
			}
			if len(first.Asked) == 0 {
				t.Error("nothing was asked")
			}
		})
	}
}

// called is what a call of hezi did.
type called struct {
	Asked    []asking
	Out, Err string
	Code     int
}

func callScripted(t *testing.T, answer func(net.Conn), full bool, args []string) (did called) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{answer: answer}
	srv := &http.Server{Handler: s}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	cmd := exec.Command("hezi", args...)
	cmd.Env = append(os.Environ(), "HEZI_HOST=unix://"+socket, "DOCKER_CONFIG="+dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if full {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdout = f
	}
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	return called{s.all(), out.String(), strings.ReplaceAll(errs.String(), dir, "DIR"), cmd.ProcessState.ExitCode()}
}

// What is done ahead of the libraries is done without them.
func TestAheadNeedsNoLibraries(t *testing.T) {
	t.Setenv("GODEBUG", "inittrace=1")
	answer := inPieces(started + chunk(1, "out\n") + chunk(4, "\x00\x00\x00\x07"))
	var did called
	for range 20 { // one may be served too late on a busy machine
		did = callScripted(t, answer, false, []string{"exec", "box", "true"})
		if did.Code != 7 || did.Out != "out\n" {
			t.Fatalf("%+v", did)
		}
		if !strings.Contains(did.Err, "init net/http ") {
			return
		}
	}
	t.Errorf("the libraries are initialised first:\n%s", did.Err)
}

// Who has asked for more in the environment or in a file is served as usual.
func TestAheadLeavesSettings(t *testing.T) {
	dir := t.TempDir()
	headers := filepath.Join(dir, "headers")
	if err := os.Mkdir(headers, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(headers, "config.json"), []byte(`{"HttpHeaders":{"X-Own":"1"},"detachKeys":"ctrl-x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{answer: inPieces(started + chunk(4, "\x00\x00\x00\x00"))}
	srv := &http.Server{Handler: s}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	cmd := exec.Command("hezi", "exec", "box", "true")
	cmd.Env = append(os.Environ(), "HEZI_HOST=unix://"+socket, "DOCKER_CONFIG="+headers)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if asked := s.all(); len(asked) != 1 || asked[0].Header.Get("X-Own") != "1" || asked[0].Body["DetachKeys"] != "ctrl-x" {
		t.Errorf("asked: %s", fmt.Sprint(asked))
	}
	cmd = exec.Command("hezi", "exec", "box", "true")
	cmd.Env = append(os.Environ(), "HEZI_HOST=unix://"+socket, "DOCKER_CONFIG="+dir, "DOCKER_API_VERSION=1.40")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "No such container: box") {
		t.Errorf("another version: %v: %s", err, out)
	}
	asked := s.all()
	if last := asked[len(asked)-1]; !strings.HasPrefix(last.Path, "/v1.40/") || last.Header.Get("Hezi-Run") != "" {
		t.Errorf("another version: asked: %+v", last)
	}
}
