package tree

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Append adds an entry's record to b.
//
//	"PATH" KIND MODE UID:GID [SIZE TIME CONTENT | "TARGET" | DEVICE] ["ATTRIBUTE"="VALUE"]...
func (e *Entry) Append(b []byte) []byte {
	b = strconv.AppendQuote(b, e.Path)
	b = append(b, ' ', e.Kind, ' ')
	if e.Kind == HardLink {
		return append(strconv.AppendQuote(b, e.Target), '\n')
	}
	b = strconv.AppendUint(b, uint64(e.Mode), 8)
	b = strconv.AppendUint(append(b, ' '), uint64(e.UID), 10)
	b = strconv.AppendUint(append(b, ':'), uint64(e.GID), 10)
	switch e.Kind {
	case File:
		b = strconv.AppendInt(append(b, ' '), e.Size, 10)
		b = strconv.AppendInt(append(b, ' '), e.Time, 10)
		b = hex.AppendEncode(append(b, ' '), e.Content[:])
	case Symlink:
		b = strconv.AppendQuote(append(b, ' '), e.Target)
	case Char, Block:
		b = strconv.AppendUint(append(b, ' '), e.Device, 10)
	}
	for _, x := range e.Xattrs {
		b = strconv.AppendQuote(append(b, ' '), x.Name)
		b = strconv.AppendQuote(append(b, '='), x.Value)
	}
	return append(b, '\n')
}

// maxRecord bounds a record: paths and targets have at most 4 KiB, attributes
// 64 KiB each, and a byte may become four when it is quoted.
const maxRecord = 4 << 20

// Reader reads records.
type Reader struct{ lines *bufio.Scanner }

// NewReader reads the records of r.
func NewReader(r io.Reader) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxRecord)
	return &Reader{s}
}

// Next gives the next entry, io.EOF after the last.
func (r *Reader) Next() (*Entry, error) {
	if !r.lines.Scan() {
		if err := r.lines.Err(); err != nil {
			return nil, fmt.Errorf("read the record of a tree: %w", err)
		}
		return nil, io.EOF
	}
	e, err := parse(r.lines.Text())
	if err != nil {
		return nil, fmt.Errorf("the record of a tree has a line that cannot be read: %w", err)
	}
	return e, nil
}

// field cuts the text at its next space.
func field(s string) (word, rest string) {
	word, rest, _ = strings.Cut(s, " ")
	return word, rest
}

// quoted cuts a quoted text off, and the byte that follows it.
func quoted(s string) (text, rest string, err error) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", err
	}
	if text, err = strconv.Unquote(q); err != nil {
		return "", "", err
	}
	return text, s[min(len(q)+1, len(s)):], nil
}

var errRecord = errors.New("it is not as it was written")

func parse(s string) (*Entry, error) {
	e := &Entry{}
	var err error
	if e.Path, s, err = quoted(s); err != nil {
		return nil, err
	}
	word, s := field(s)
	if len(word) != 1 {
		return nil, errRecord
	}
	e.Kind = word[0]
	if e.Kind == HardLink {
		e.Target, s, err = quoted(s)
		if err == nil && s != "" {
			err = errRecord
		}
		return e, err
	}
	if s, err = e.parseOwner(s); err != nil {
		return nil, err
	}
	switch e.Kind {
	case File:
		s, err = e.parseFile(s)
	case Symlink:
		e.Target, s, err = quoted(s)
	case Char, Block:
		word, s = field(s)
		e.Device, err = strconv.ParseUint(word, 10, 64)
	case Folder, Pipe, Socket:
	default:
		err = errRecord
	}
	for err == nil && s != "" {
		var x Xattr
		if x.Name, s, err = quoted(s); err != nil {
			break
		}
		x.Value, s, err = quoted(s)
		e.Xattrs = append(e.Xattrs, x)
	}
	return e, err
}

func (e *Entry) parseOwner(s string) (rest string, err error) {
	mode, s := field(s)
	owner, s := field(s)
	u, g, _ := strings.Cut(owner, ":")
	for _, n := range []struct {
		to   *uint32
		text string
		base int
	}{{&e.Mode, mode, 8}, {&e.UID, u, 10}, {&e.GID, g, 10}} {
		v, err := strconv.ParseUint(n.text, n.base, 32)
		if err != nil {
			return "", err
		}
		*n.to = uint32(v)
	}
	return s, nil
}

func (e *Entry) parseFile(s string) (rest string, err error) {
	size, s := field(s)
	at, s := field(s)
	content, s := field(s)
	if e.Size, err = strconv.ParseInt(size, 10, 64); err != nil {
		return "", err
	}
	if e.Time, err = strconv.ParseInt(at, 10, 64); err != nil {
		return "", err
	}
	if len(content) != hex.EncodedLen(len(e.Content)) {
		return "", errRecord
	}
	_, err = hex.Decode(e.Content[:], []byte(content))
	return s, err
}
