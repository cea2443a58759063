package tutorial

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// browser is a page of Debian's chromium, spoken to by the DevTools protocol over
// a pair of pipes (chrome --remote-debugging-pipe): JSON, ended by zero bytes.
type browser struct {
	t       testing.TB
	to      *os.File
	from    *bufio.Reader
	last    int
	session string
}

// open starts chromium with an empty page of the size.
func open(t testing.TB, width, height int) *browser {
	t.Helper()
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "chromium-") // its sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
		"--user-data-dir="+dir, fmt.Sprintf("--window-size=%d,%d", width, height), "--hide-scrollbars")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.ExtraFiles = []*os.File{theirs, answers} // 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install chromium: make setup", err)
	}
	theirs.Close()
	answers.Close()
	b := &browser{t: t, to: to, from: bufio.NewReader(from)}
	t.Cleanup(func() {
		_ = b.call("Browser.close", nil, nil) // it cleans up
		_ = cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of its processes
		to.Close()
		from.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	var target struct{ TargetID string }
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	return b
}

// do is call, which must succeed.
func (b *browser) do(method string, params map[string]any, result any) {
	b.t.Helper()
	if err := b.call(method, params, result); err != nil {
		b.t.Fatalf("the browser: %s: %v", method, err)
	}
}

func (b *browser) call(method string, params map[string]any, result any) error {
	b.last++
	request := map[string]any{"id": b.last, "method": method, "params": params}
	if b.session != "" {
		request["sessionId"] = b.session
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return err
	}
	for {
		text, err := b.from.ReadBytes(0)
		if err != nil {
			return err
		}
		var answer struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &answer); err != nil {
			return err
		}
		switch {
		case answer.ID != b.last: // an event
		case answer.Error != nil:
			return errors.New(answer.Error.Message)
		case result != nil:
			return json.Unmarshal(answer.Result, result)
		default:
			return nil
		}
	}
}

// visit goes to a page.
func (b *browser) visit(url string) {
	b.t.Helper()
	var r struct{ ErrorText string }
	b.do("Page.navigate", map[string]any{"url": url}, &r)
	if r.ErrorText != "" {
		b.t.Fatalf("the browser: %s: %s", url, r.ErrorText)
	}
}

// text is the value of an expression in the page.
func (b *browser) text(expression string) string {
	b.t.Helper()
	var r struct{ Result struct{ Value string } }
	b.do("Runtime.evaluate", map[string]any{"expression": expression}, &r)
	return r.Result.Value
}

// fail fails the test, and keeps what the page shows.
func (b *browser) fail(why string) {
	b.t.Helper()
	f, err := os.CreateTemp("", "browser-*.png")
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, b.screenshot()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Fatalf("the browser, which shows %s: %s", f.Name(), why)
}

// types types a line.
func (b *browser) types(text string) {
	b.t.Helper()
	b.do("Input.insertText", map[string]any{"text": text}, nil)
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.do("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}, nil)
	}
}

// screenshot is what the page shows.
func (b *browser) screenshot() image.Image {
	b.t.Helper()
	var shot struct{ Data []byte }
	b.do("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	img, err := png.Decode(bytes.NewReader(shot.Data))
	if err != nil {
		b.t.Fatal(err)
	}
	return img
}
