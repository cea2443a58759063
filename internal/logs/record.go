package logs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"sort"
	"time"
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

// appendString appends a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b >= 0x20 && b != '"' && b != '\\' && b < utf8.RuneSelf && b != 0x7f {
			i++
			continue
		}
		if b >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b == '\n':
			dst = append(dst, '\\', 'n')
		case b == '\r':
			dst = append(dst, '\\', 'r')
		case b == '\t':
			dst = append(dst, '\\', 't')
		case b < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
		default:
			dst = append(dst, `\ufffd`...)
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// appendRecord appends e as one line; attrs is ready JSON or nil.
func appendRecord(dst []byte, e *Entry, attrs []byte) []byte {
	dst = append(dst, `{"log":`...)
	dst = appendString(dst, e.Line)
	if !utf8.Valid(e.Line) {
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
