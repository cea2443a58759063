package logs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"sort"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxLine is where a line without end is split into records, as Docker does.
const MaxLine = 16 << 10

// maxRecord bounds what a reader takes for one record of a broken file.
const maxRecord = 1 << 20

// Entry is one record.
type Entry struct {
	Stream string // "stdout" or "stderr"
	Time   time.Time
	Line   []byte // exact bytes; without a newline when the line goes on
	Attrs  map[string]string
}

const hexDigits = "0123456789abcdef"

// plain says which bytes stand for themselves in a record: Docker escapes what
// encoding/json does.
var plain = func() (t [256]bool) {
	for b := byte(0x20); b < utf8.RuneSelf; b++ {
		t[b] = b != '"' && b != '\\' && b != '<' && b != '>' && b != '&'
	}
	return t
}()

// appendString appends a JSON string as Docker writes it; bytes that are not
// UTF-8 become U+FFFD, which valid reports.
func appendString(dst, s []byte) (_ []byte, valid bool) {
	dst, valid = append(dst, '"'), true
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if plain[b] {
			i++
			continue
		}
		size := 1
		if b >= utf8.RuneSelf {
			var r rune
			r, size = utf8.DecodeRune(s[i:])
			if (r != utf8.RuneError || size > 1) && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
			valid = valid && size > 1
		}
		dst = append(dst, s[start:i]...)
		switch {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b == '\n':
			dst = append(dst, '\\', 'n')
		case b == '\r':
			dst = append(dst, '\\', 'r')
		case b < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
		case size > 1: // U+2028 and U+2029
			dst = append(dst, `\u202`...)
			dst = append(dst, hexDigits[s[i+2]&15])
		default:
			dst = append(dst, `\ufffd`...)
		}
		i += size
		start = i
	}
	return append(append(dst, s[start:]...), '"'), valid
}

// appendRecord appends e as one line; attrs is ready JSON or nil.
func appendRecord(dst []byte, e *Entry, attrs []byte) []byte {
	dst = append(dst, `{"log":`...)
	dst, valid := appendString(dst, e.Line)
	if !valid {
		dst = append(dst, `,"raw":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, e.Line)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"stream":"`...)
	dst = append(dst, e.Stream...)
	dst = append(dst, '"')
	if len(attrs) > 0 {
		dst = append(append(dst, `,"attrs":`...), attrs...)
	}
	dst = append(dst, `,"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"', '}', '\n')
}

// parseRecord decodes one line; ok is false for what is no record.
func parseRecord(line []byte) (e Entry, ok bool) {
	if e, ok = parseOwn(line); ok {
		return e, true
	}
	return parseAny(line)
}

// parseOwn decodes a record exactly as appendRecord writes it, without
// attributes; ok is false for all else. It is what clients that catch up wait for.
func parseOwn(line []byte) (e Entry, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"log":"`))
	if !ok {
		return e, false
	}
	text, rest, ok := unquote(rest)
	if !ok {
		return e, false
	}
	if raw, ok := bytes.CutPrefix(rest, []byte(`,"raw":"`)); ok {
		end := bytes.IndexByte(raw, '"')
		if end < 0 {
			return e, false
		}
		var err error
		if text, err = base64.StdEncoding.AppendDecode(nil, raw[:end]); err != nil {
			return e, false
		}
		rest = raw[end+1:]
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"stream":"std`)); !ok || len(rest) < 3 {
		return e, false
	}
	switch string(rest[:3]) {
	case "out":
		e.Stream = "stdout"
	case "err":
		e.Stream = "stderr"
	default:
		return e, false
	}
	if rest, ok = bytes.CutPrefix(rest[3:], []byte(`","time":"`)); !ok {
		return e, false
	}
	stamp, ok := bytes.CutSuffix(bytes.TrimSuffix(rest, []byte("\n")), []byte(`"}`))
	if !ok {
		return e, false
	}
	var err error
	e.Time, err = time.Parse(time.RFC3339Nano, string(stamp))
	e.Line = text
	return e, err == nil
}

// unquote reads a JSON string as appendString writes it, behind its first
// quote, and returns what follows it.
func unquote(b []byte) (text, rest []byte, ok bool) {
	end := bytes.IndexAny(b, `"\`)
	if end < 0 {
		return nil, nil, false
	}
	text = append(make([]byte, 0, min(len(b), MaxLine)), b[:end]...)
	for b = b[end:]; len(b) > 0; {
		if b[0] == '"' {
			return text, b[1:], true
		}
		if len(b) < 2 {
			break
		}
		switch b[1] { // behind a backslash
		case '"', '\\':
			text = append(text, b[1])
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		default:
			if b[1] != 'u' || len(b) < 6 {
				return nil, nil, false
			}
			n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
			if err != nil || utf16.IsSurrogate(rune(n)) {
				return nil, nil, false
			}
			text = utf8.AppendRune(text, rune(n))
			b = b[4:]
		}
		b = b[2:]
		next := bytes.IndexAny(b, `"\`)
		if next < 0 {
			break
		}
		text = append(text, b[:next]...)
		b = b[next:]
	}
	return nil, nil, false
}

// parseAny decodes a record of any JSON, as other programs may have written it.
func parseAny(line []byte) (e Entry, ok bool) {
	var r struct {
		Log    string            `json:"log"`
		Raw    []byte            `json:"raw"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if json.Unmarshal(line, &r) != nil || (r.Stream != "stdout" && r.Stream != "stderr") {
		return e, false
	}
	e = Entry{Stream: r.Stream, Time: r.Time, Attrs: r.Attrs, Line: r.Raw}
	if r.Raw == nil {
		e.Line = []byte(r.Log)
	}
	return e, true
}

func encodeAttrs(attrs map[string]string) []byte {
	if len(attrs) == 0 {
		return nil
	}
	b, err := json.Marshal(attrs)
	if err != nil {
		return nil // a map of strings always marshals
	}
	return b
}

// DetailsString is how `logs --details` shows attributes: key=value,key=value.
func (e *Entry) DetailsString() string {
	keys := make([]string, 0, len(e.Attrs))
	for k := range e.Attrs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b bytes.Buffer
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + e.Attrs[k])
	}
	return b.String()
}

// Split cuts the next record's text from buf: a whole line, or MaxLine bytes
// of a longer one, or with final the rest. ok is false when more is needed.
func Split(buf []byte, final bool) (line, rest []byte, ok bool) {
	if i := bytes.IndexByte(buf[:min(len(buf), MaxLine)], '\n'); i >= 0 {
		return buf[:i+1], buf[i+1:], true
	}
	if len(buf) >= MaxLine {
		return buf[:MaxLine], buf[MaxLine:], true
	}
	if final && len(buf) > 0 {
		return buf, nil, true
	}
	return nil, buf, false
}
