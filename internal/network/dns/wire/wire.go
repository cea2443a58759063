// Package wire reads DNS messages where they are (RFC 1035, 6891). What a
// forwarder needs of a message are its question, its lifetimes and its addresses;
// all else goes on as it came, also what no library knows. Every byte is hostile:
// nothing here follows a pointer or allocates by a number in a message.
package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// Types and response codes that are looked at.
const (
	TypeA, TypeSOA, TypePTR, TypeAAAA, TypeOPT = 1, 6, 12, 28, 41
	TypeIXFR, TypeAXFR, TypeANY                = 251, 252, 255
	ClassIN                                    = 1

	Success, FormatError, ServerFailure, NameError, NotImplemented, Refused, BadVersion = 0, 1, 2, 3, 4, 5, 16
)

// Bits of a header's flags.
const (
	FlagResponse  = 1 << 15
	FlagTruncated = 1 << 9
	FlagRecursion = 1 << 8 // desired
	FlagAvailable = 1 << 7 // recursion
	FlagAuthentic = 1 << 5
	FlagUnchecked = 1 << 4

	opcodeBits = 0xf << 11
)

// HeaderLen is the length of a header in bytes; MinUDP is what a client takes over
// UDP that does not say more.
const (
	HeaderLen = 12
	MinUDP    = 512
)

var (
	// ErrSilent: it is not a query and gets no answer.
	ErrSilent = errors.New("not a query")
	// ErrFormat: it is malformed.
	ErrFormat = errors.New("malformed DNS message")
	// ErrKind: an operation that is not done.
	ErrKind = errors.New("not a standard query")
)

// Query is a query that was read. Its slices are of the message.
type Query struct {
	Msg      []byte
	Question []byte // name, type and class
	// Name in lower case, without the last dot; "" for the root and for a name with
	// letters that no name of ours has.
	Name        string
	Type, Class uint16
	Flags       uint16
	// EDNS (RFC 6891): Size is what the client takes over UDP, at least MinUDP.
	EDNS    bool
	Size    int
	DNSSEC  bool // the DO bit
	Version uint8
	// Alone: there is more in it than others of the same Key have, such as options of EDNS
	// or a signature. A server may answer that, and the answer is nobody else's.
	Alone bool
	optAt int
}

func flags(msg []byte) uint16        { return binary.BigEndian.Uint16(msg[2:]) }
func count(msg []byte, n int) int    { return int(binary.BigEndian.Uint16(msg[4+2*n:])) }
func number(msg []byte, at int) int  { return int(binary.BigEndian.Uint16(msg[at:])) }
func put(msg []byte, at int, n uint) { binary.BigEndian.PutUint16(msg[at:], uint16(n)) }

// ID of a message that has a header.
func ID(msg []byte) uint16 { return binary.BigEndian.Uint16(msg) }

// SetID of a message that has a header.
func SetID(msg []byte, id uint16) { binary.BigEndian.PutUint16(msg, id) }

// Rcode of a message that has a header, without EDNS's upper bits.
func Rcode(msg []byte) int { return int(flags(msg) & 0xf) }

// Truncated says whether the message has its bit set.
func Truncated(msg []byte) bool { return flags(msg)&FlagTruncated != 0 }

// ParseQuery reads a query. Errors: ErrSilent, ErrFormat, ErrKind.
func ParseQuery(msg []byte) (*Query, error) {
	if len(msg) < HeaderLen || flags(msg)&FlagResponse != 0 {
		return nil, ErrSilent
	}
	q := &Query{Msg: msg, Flags: flags(msg), Size: MinUDP}
	if q.Flags&opcodeBits != 0 {
		return nil, ErrKind
	}
	end, ok := questionEnd(msg)
	if !ok {
		return nil, ErrFormat
	}
	q.Question = msg[HeaderLen:end]
	q.Type, q.Class = uint16(number(msg, end-4)), uint16(number(msg, end-2))
	q.Name = text(q.Question[:len(q.Question)-4])
	q.Alone = q.Flags&^(FlagRecursion|FlagAuthentic|FlagUnchecked) != 0
	if q.Type == TypeAXFR || q.Type == TypeIXFR {
		return nil, ErrKind
	}
	err := Walk(msg, func(r Record) error {
		switch {
		case r.Type != TypeOPT:
			q.Alone = true
			return nil
		case q.EDNS || r.Section != Additional:
			return ErrFormat
		}
		q.EDNS, q.optAt = true, r.TTLAt-4
		q.Size = max(MinUDP, int(r.Class))
		q.Version, q.DNSSEC = uint8(r.TTL>>16), r.TTL&(1<<15) != 0
		q.Alone = q.Alone || len(r.Data) > 0 || r.TTL&^(1<<15|0xff<<16) != 0
		return nil
	})
	if err != nil {
		return nil, ErrFormat
	}
	return q, nil
}

// Clamp lowers the size over UDP that the query names.
func (q *Query) Clamp(size int) {
	if q.EDNS && q.Size > size {
		q.Size = size
		put(q.Msg, q.optAt+2, uint(size))
	}
}

// Key is what two queries have in common that the same answer serves.
func (q *Query) Key() string {
	b := make([]byte, 0, len(q.Question)+2)
	b = append(b, byte(q.Flags>>8)&1, byte(q.Flags&(FlagAuthentic|FlagUnchecked)))
	if q.EDNS {
		b[0] |= 2
	}
	if q.DNSSEC {
		b[0] |= 4
	}
	for _, c := range q.Question[:len(q.Question)-4] {
		b = append(b, lower(c))
	}
	return string(append(b, q.Question[len(q.Question)-4:]...))
}

// questionEnd is where the one question of a message ends.
func questionEnd(msg []byte) (end int, ok bool) {
	if len(msg) < HeaderLen || count(msg, 0) != 1 {
		return 0, false
	}
	for at := HeaderLen; at < len(msg); {
		n := int(msg[at])
		if n > 63 { // no pointer: there is nothing before it
			return 0, false
		}
		at += 1 + n
		if n == 0 {
			return at + 4, at+4 <= len(msg) && at-HeaderLen <= 255
		}
	}
	return 0, false
}

// text is a name in lower case and with dots.
func text(name []byte) string {
	var b strings.Builder
	for len(name) > 1 {
		n := int(name[0])
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		for _, c := range name[1 : 1+n] {
			if c <= ' ' || c == '.' || c >= 0x7f {
				return ""
			}
			b.WriteByte(lower(c))
		}
		name = name[1+n:]
	}
	return b.String()
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Sections of a message.
const (
	Answer = 1 + iota
	Authority
	Additional
)

// Record is one of a message. Data is of the message.
type Record struct {
	Section     int
	Type, Class uint16
	TTL         uint32
	TTLAt       int // its place in the message
	Data        []byte
}

// Walk calls f for every record after the one question, until f has an error.
func Walk(msg []byte, f func(Record) error) error {
	at, ok := questionEnd(msg)
	if !ok {
		return ErrFormat
	}
	for section := Answer; section <= Additional; section++ {
		for range count(msg, section) {
			if at, ok = skipName(msg, at); !ok || at+10 > len(msg) {
				return ErrFormat
			}
			r := Record{Section: section, Type: uint16(number(msg, at)), Class: uint16(number(msg, at+2)),
				TTL: binary.BigEndian.Uint32(msg[at+4:]), TTLAt: at + 4}
			n := number(msg, at+8)
			if at += 10; at+n > len(msg) {
				return ErrFormat
			}
			r.Data, at = msg[at:at+n], at+n
			if err := f(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func skipName(msg []byte, at int) (int, bool) {
	for at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1, true
		case n&0xc0 == 0xc0:
			return at + 2, at+2 <= len(msg)
		case n > 63:
			return 0, false
		default:
			at += 1 + n
		}
	}
	return 0, false
}

// Answers says whether msg answers the query that was sent: the same id and the
// same question, letter by letter. A server that cannot read the question, as an old one
// that knows no EDNS, says so by a header alone (RFC 6891, 7).
func Answers(msg, sent []byte) bool {
	if len(msg) < HeaderLen || ID(msg) != ID(sent) || flags(msg)&FlagResponse == 0 || flags(msg)&opcodeBits != 0 {
		return false
	}
	if code := Rcode(msg); len(msg) == HeaderLen && count(msg, 0) == 0 {
		return code == FormatError || code == NotImplemented || code == ServerFailure || code == Refused
	}
	want, _ := questionEnd(sent)
	end, ok := questionEnd(msg)
	return ok && string(msg[HeaderLen:end]) == string(sent[HeaderLen:want])
}

// Fit makes an answer the one to a query: its id, and its question as it was
// spelled. The answer is to a query of the same Key.
func Fit(msg []byte, q *Query) {
	SetID(msg, ID(q.Msg))
	copy(msg[HeaderLen:], q.Question)
}

// Bare is an answer without records: with a code, and with the flags in set.
func Bare(q *Query, code int, set uint16) []byte {
	msg := make([]byte, HeaderLen, HeaderLen+len(q.Question)+optLen)
	SetID(msg, ID(q.Msg))
	put(msg, 2, uint(FlagResponse|FlagAvailable|q.Flags&(FlagRecursion|FlagUnchecked)|set|uint16(code&0xf)))
	put(msg, 4, 1)
	return AppendOPT(append(msg, q.Question...), q, code)
}

// Refusal answers what is no query that can be read, by its header alone; nil if
// it gets no answer.
func Refusal(msg []byte, err error) []byte {
	if len(msg) < HeaderLen || err == ErrSilent {
		return nil
	}
	code := uint(FormatError)
	if err == ErrKind {
		code = NotImplemented
	}
	r := make([]byte, HeaderLen)
	SetID(r, ID(msg))
	put(r, 2, uint(flags(msg)&(opcodeBits|FlagRecursion)|FlagResponse|FlagAvailable)|code)
	return r
}

const (
	optLen = 11
	// OwnSize is what we say that we take over UDP: no fragment, as DNS Flag Day 2020
	// has it.
	OwnSize = 1232
)

// AppendOPT adds the record of EDNS if the query has one (RFC 6891, 6.1.1).
func AppendOPT(msg []byte, q *Query, code int) []byte {
	if !q.EDNS {
		return msg
	}
	put(msg, 10, uint(count(msg, Additional)+1))
	opt := [optLen]byte{2: TypeOPT, 3: OwnSize >> 8, 4: OwnSize & 0xff, 5: byte(code >> 4)}
	if q.DNSSEC {
		opt[7] = 0x80
	}
	return append(msg, opt[:]...)
}

// Room is how many bytes are left for records in an answer of at most size.
func (q *Query) Room(size int) int {
	size -= HeaderLen + len(q.Question)
	if q.EDNS {
		size -= optLen
	}
	return size
}

// Addresses of a message's answers, with the shortest of their lifetimes in
// seconds.
func Addresses(msg []byte) (list []netip.Addr, ttl uint32) {
	ttl = 1<<32 - 1
	err := Walk(msg, func(r Record) error {
		if a, ok := netip.AddrFromSlice(r.Data); ok && r.Section == Answer && r.Class == ClassIN && (r.Type == TypeA && a.Is4() || r.Type == TypeAAAA && a.Is6()) {
			list, ttl = append(list, a), min(ttl, r.TTL)
		}
		return nil
	})
	if err != nil {
		return nil, 0
	}
	return list, ttl
}

// Reverse is the address that a name of the reverse trees stands for.
func Reverse(name string) (netip.Addr, bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(v4, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(v6) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		c := strings.IndexByte("0123456789abcdef", v6[2*i])
		if c < 0 || i < 31 && v6[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(c) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

var errEnough = errors.New("enough")

// Shorten is as much of an answer as the query's client takes over UDP, whole records of
// its first section, and says that there is more. Some clients never ask over TCP, and
// use what they get. Names in it are compressed by what is before them, and so stay whole.
func Shorten(msg []byte, q *Query, size int) []byte {
	end, ok := questionEnd(msg)
	if !ok {
		return Bare(q, Rcode(msg), FlagTruncated)
	}
	if q.EDNS {
		size -= optLen
	}
	n := uint(0)
	_ = Walk(msg, func(r Record) error { // what is malformed is left out
		last := r.TTLAt + 6 + len(r.Data)
		if r.Section != Answer || last > size {
			return errEnough
		}
		end, n = last, n+1
		return nil
	})
	short := append(make([]byte, 0, end+optLen), msg[:end]...)
	put(short, 2, uint(flags(msg)|FlagTruncated))
	put(short, 6, n)
	put(short, 8, 0)
	put(short, 10, 0)
	return AppendOPT(short, q, Rcode(msg))
}

// Cut is an answer without its records that says so: the client is to ask over
// TCP.
func Cut(msg []byte) []byte {
	end, ok := questionEnd(msg)
	if !ok {
		return msg
	}
	cut := append([]byte(nil), msg[:end]...)
	put(cut, 2, uint(flags(cut)|FlagTruncated))
	for n := Answer; n <= Additional; n++ {
		put(cut, 4+2*n, 0)
	}
	return cut
}
