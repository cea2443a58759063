package ahead

import (
	"os"
	"strconv"
	"syscall"
	"time"
	"unicode/utf8"

	"hezi/internal/version"
)

// maxRequest fits a socket's buffer, so that writing it waits for nobody.
const maxRequest = 32 << 10

// execRequest is the request of endpoint.ExecRun for an exec without flags. ok
// is false for what might be written in another way there.
func execRequest(container string, cmd []string) (request []byte, ok bool) {
	if !isName(container) {
		return nil, false
	}
	body := []byte(`{"AttachStderr":true,"AttachStdout":true,"Cmd":[`)
	for i, arg := range cmd {
		if !utf8.ValidString(arg) || len(body)+len(arg) > maxRequest {
			return nil, false
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = quote(body, arg)
	}
	body = append(body, "]}"...)
	if len(body) > maxRequest {
		return nil, false
	}
	request = []byte("POST /v" + version.API + "/containers/" + container + "/exec HTTP/1.1\r\n" +
		"Host: api.moby.localhost\r\n" +
		"User-Agent: Hezi-Client/" + version.Version + " (linux)\r\n" +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\n" +
		"Connection: Upgrade\r\nContent-Type: application/json\r\nHezi-Run: 1\r\nUpgrade: tcp\r\n\r\n")
	return append(request, body...), true
}

// isName says whether s is a container's name or id: no flag, and nothing that
// an address escapes.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// quote appends s as JSON.
func quote(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

const (
	frameHead = 8 // bytes: the kind, three zeros, the length (big-endian)

	kindOut  = 1
	kindErr  = 2
	kindExit = 4 // see term.Attachment
)

// serve reads the answer and writes the output until the exit code comes. ok is
// false where the usual way has to go on.
func (a *Asked) serve() (code int, ok bool) {
	for a.ID == "" {
		if !a.more() {
			return 0, false
		}
		if !a.head() {
			return 0, false
		}
	}
	_ = syscall.Shutdown(a.FD, syscall.SHUT_WR) // a connection that is gone is seen next
	for {
		for a.w-a.r < frameHead || a.w-a.r < frameHead+a.length() {
			if a.w-a.r >= frameHead && frameHead+a.length() > len(a.buf) || !a.more() {
				return 0, false
			}
		}
		n := a.length()
		data := a.buf[a.r+frameHead : a.r+frameHead+n]
		switch kind := a.buf[a.r]; {
		case kind == kindOut && a.print(os.Stdout, data), kind == kindErr && a.print(os.Stderr, data):
		case kind == kindExit && n == 4:
			return int(data[0])<<24 | int(data[1])<<16 | int(data[2])<<8 | int(data[3]), true
		default:
			return 0, false
		}
		a.r += frameHead + n
	}
}

// length is that of the frame whose head is at the front.
func (a *Asked) length() int {
	h := a.buf[a.r+4 : a.r+frameHead]
	return int(h[0])<<24 | int(h[1])<<16 | int(h[2])<<8 | int(h[3])
}

// more reads something. It is false at the end, after an error and when the
// time is over, and the usual way then meets the same.
func (a *Asked) more() bool {
	if a.r > 0 {
		a.w = copy(a.buf[:], a.Rest())
		a.r = 0
	}
	for a.w < len(a.buf) && time.Now().Before(a.end) {
		n, err := syscall.Read(a.FD, a.buf[a.w:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return false
		}
		a.w += n
		return true
	}
	return false
}

// head takes the head of the answer, once all of it is there. It is false for
// any but that of an exec which was started.
func (a *Asked) head() bool {
	const status, field, eol = "HTTP/1.1 101 ", "\r\nHezi-Exec-Id: ", "\r\n"
	text := string(a.Rest())
	if n := min(len(text), len(status)); text[:n] != status[:n] {
		return false
	}
	end := index(text, eol+eol)
	if end < 0 {
		return true
	}
	i := index(text[:end], field)
	if i < 0 {
		return false
	}
	id := text[i+len(field) : end]
	if n := index(id, eol); n >= 0 {
		id = id[:n]
	}
	if !isName(id) {
		return false
	}
	a.ID = id
	a.r += end + len(eol+eol)
	return true
}

// index is strings.Index, without the tables of Unicode that strings needs.
func index(s, part string) int {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return i
		}
	}
	return -1
}

// print writes the output of the frame at the front. What cannot be written is
// left there as a frame of its own: the usual way tries again and says why.
func (a *Asked) print(f *os.File, data []byte) bool {
	if len(data) == 0 {
		return true
	}
	n, err := f.Write(data)
	if err == nil {
		return true
	}
	kind := a.buf[a.r]
	a.r += n
	rest := len(data) - n
	copy(a.buf[a.r:], []byte{kind, 0, 0, 0, byte(rest >> 24), byte(rest >> 16), byte(rest >> 8), byte(rest)})
	return false
}
