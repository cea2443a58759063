package logs

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"net/url"
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

// plain is how many bytes at the beginning of s stand for themselves in a record:
// Docker escapes what encoding/json does. It looks at eight at a time: a byte of a
// word is found, by its highest bit, where a subtraction borrows, and the lowest one
// so found is exact.
func plain(s []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := binary.LittleEndian.Uint64(s[i:])
		control := (x - ones*0x20) &^ x
		angle := (x | ones*2) ^ ones*'>' // '<' is it without this bit
		quote := (x | ones*4) ^ ones*'&' // and '"'
		back := x ^ ones*'\\'
		found := x | control | (angle-ones)&^angle | (quote-ones)&^quote | (back-ones)&^back
		if found &= high; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(s); i++ {
		if b := s[i]; b < 0x20 || b >= utf8.RuneSelf || b == '"' || b == '\\' || b == '<' || b == '>' || b == '&' {
			break
		}
	}
	return i
}

// appendString appends a JSON string as Docker writes it; bytes that are not
// UTF-8 become U+FFFD, which valid reports.
func appendString(dst, s []byte) (_ []byte, valid bool) {
	dst, valid = append(dst, '"'), true
	start := 0
	for i := 0; ; {
		if i += plain(s[i:]); i == len(s) {
			break
		}
		b, size := s[i], 1
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

// encoder writes records as lines. What many have in common is made once.
type encoder struct {
	attrs  []byte // ready JSON, or nil
	stream string // of tail and second
	second int64
	tail   []byte // from the text's end to the time's second
}

// record appends one.
func (c *encoder) record(dst []byte, stream string, at time.Time, text []byte) []byte {
	dst = append(dst, `{"log":`...)
	dst, valid := appendString(dst, text)
	if !valid {
		dst = append(dst, `,"raw":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, text)
		dst = append(dst, '"')
	}
	if second := at.Unix(); len(c.tail) == 0 || second != c.second || stream != c.stream {
		c.second, c.stream = second, stream
		c.tail = append(append(append(c.tail[:0], `,"stream":"`...), stream...), '"')
		if len(c.attrs) > 0 {
			c.tail = append(append(c.tail, `,"attrs":`...), c.attrs...)
		}
		c.tail = append(c.tail, `,"time":"`...)
		c.tail = at.UTC().AppendFormat(c.tail, "2006-01-02T15:04:05")
	}
	dst = append(dst, c.tail...)
	return append(appendFraction(dst, at.Nanosecond()), `Z"}`+"\n"...)
}

// appendFraction appends nanoseconds as time.RFC3339Nano does: nothing for none, and
// no zeros at the end.
func appendFraction(dst []byte, ns int) []byte {
	if ns == 0 {
		return dst
	}
	var d [10]byte
	d[0] = '.'
	for i := 9; i > 0; i-- {
		d[i] = byte('0' + ns%10)
		ns /= 10
	}
	end := len(d)
	for d[end-1] == '0' {
		end--
	}
	return append(dst, d[:end]...)
}

// parseRecord decodes one line; ok is false for what is no record.
func parseRecord(line []byte) (e Entry, ok bool) { return new(decoder).record(line) }

// decoder decodes records, one after the other. An entry's Line is good until the next.
type decoder struct {
	text   []byte
	second []byte // a time's beginning, to the second
	at     time.Time
	raw    []byte            // attributes as they are written, which all of a container's records share
	attrs  map[string]string // the same
}

// record decodes one line; ok is false for what is no record.
func (d *decoder) record(line []byte) (e Entry, ok bool) {
	if e, ok = d.own(line); ok {
		return e, true
	}
	return parseAny(line)
}

// own decodes a record exactly as the encoder writes it; ok is false for all else. It
// is what clients that catch up wait for.
func (d *decoder) own(line []byte) (e Entry, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"log":"`))
	if !ok {
		return e, false
	}
	text, rest, ok := unquote(d.text[:0], rest)
	if !ok {
		return e, false
	}
	d.text = text
	if raw, ok := bytes.CutPrefix(rest, []byte(`,"raw":"`)); ok {
		end := bytes.IndexByte(raw, '"')
		if end < 0 {
			return e, false
		}
		var err error
		if text, err = base64.StdEncoding.AppendDecode(text[:0], raw[:end]); err != nil {
			return e, false
		}
		d.text = text
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
	if rest, ok = bytes.CutPrefix(rest[3:], []byte(`"`)); !ok {
		return e, false
	}
	if raw, has := bytes.CutPrefix(rest, []byte(`,"attrs":`)); has {
		end := bytes.LastIndex(raw, []byte(`,"time":"`)) // in a value its quotes would be escaped
		if end < 0 || !d.attributes(raw[:end]) {
			return e, false
		}
		e.Attrs, rest = d.attrs, raw[end:]
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"time":"`)); !ok {
		return e, false
	}
	stamp, ok := bytes.CutSuffix(bytes.TrimSuffix(rest, []byte("\n")), []byte(`"}`))
	if !ok {
		return e, false
	}
	e.Line = text
	e.Time, ok = d.time(stamp)
	return e, ok
}

// attributes reads them from JSON, unless they are those of the record before.
func (d *decoder) attributes(raw []byte) bool {
	if len(d.raw) > 0 && bytes.Equal(raw, d.raw) {
		return true
	}
	d.raw, d.attrs = d.raw[:0], nil
	if json.Unmarshal(raw, &d.attrs) != nil {
		return false
	}
	d.raw = append(d.raw, raw...)
	return true
}

// time reads a time as time.RFC3339Nano writes it in UTC.
func (d *decoder) time(b []byte) (time.Time, bool) {
	const second = len("2006-01-02T15:04:05")
	fraction, ok := bytes.CutSuffix(b[min(second, len(b)):], []byte("Z"))
	if !ok || len(fraction) == 1 || len(fraction) > 10 || len(fraction) > 0 && fraction[0] != '.' {
		return time.Time{}, false
	}
	if !bytes.Equal(b[:second], d.second) {
		at, err := time.Parse("2006-01-02T15:04:05", string(b[:second]))
		if err != nil {
			return time.Time{}, false
		}
		d.at, d.second = at, append(d.second[:0], b[:second]...)
	}
	ns := 0
	for i := 1; i < 10 && len(fraction) > 0; i++ {
		ns *= 10
		if i >= len(fraction) {
			continue
		}
		if fraction[i] < '0' || fraction[i] > '9' {
			return time.Time{}, false
		}
		ns += int(fraction[i] - '0')
	}
	return d.at.Add(time.Duration(ns)), true
}

// special is where the first quote or backslash is; negative: nowhere.
func special(b []byte) int {
	end := bytes.IndexByte(b, '"')
	if end < 0 {
		end = len(b)
	}
	if i := bytes.IndexByte(b[:end], '\\'); i >= 0 {
		return i
	}
	if end == len(b) {
		return -1
	}
	return end
}

// unquote reads a JSON string as appendString writes it, behind its first
// quote, onto text, and returns what follows it.
func unquote(text, b []byte) (_, rest []byte, ok bool) {
	end := special(b)
	if end < 0 {
		return nil, nil, false
	}
	text = append(text, b[:end]...)
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
		next := special(b)
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

// DetailsString is how `logs --details` shows attributes, as Docker escapes them:
// key=value,key=value.
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
		b.WriteString(url.QueryEscape(k) + "=" + url.QueryEscape(e.Attrs[k]))
	}
	return b.String()
}

// split cuts the next record's text from buf: a whole line, or MaxLine bytes
// of a longer one, or with final the rest. ok is false when more is needed.
func split(buf []byte, final bool) (line, rest []byte, ok bool) {
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

// Whole is how many bytes at the beginning of buf Append takes, where the file has room:
// whole lines, and of a longer one what makes records; with final all.
func Whole(buf []byte, final bool) int64 {
	if final {
		return int64(len(buf))
	}
	end := bytes.LastIndexByte(buf, '\n') + 1
	return int64(end + (len(buf)-end)/MaxLine*MaxLine)
}
