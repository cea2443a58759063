package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func query(t testing.TB, name string, typ dnsmessage.Type, opt func(*dnsmessage.Builder)) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 0x1234, RecursionDesired: true})
	err := b.StartQuestions()
	if err == nil {
		err = b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET})
	}
	if err == nil {
		err = b.StartAdditionals()
	}
	if err != nil {
		t.Fatal(err)
	}
	if opt != nil {
		opt(&b)
	}
	msg, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func edns(size int, do bool, options ...dnsmessage.Option) func(*dnsmessage.Builder) {
	return func(b *dnsmessage.Builder) {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(size, dnsmessage.RCodeSuccess, do); err != nil {
			panic(err)
		}
		if err := b.OPTResource(h, dnsmessage.OPTResource{Options: options}); err != nil {
			panic(err)
		}
	}
}

func TestQuery(t *testing.T) {
	q, err := ParseQuery(query(t, "Db.Example.", dnsmessage.TypeAAAA, edns(1400, true)))
	if err != nil {
		t.Fatal(err)
	}
	if q.Name != "db.example" || q.Type != TypeAAAA || q.Class != ClassIN || !q.EDNS || q.Size != 1400 || !q.DNSSEC || q.Alone {
		t.Errorf("read as %+v", q)
	}
	q.Clamp(600)
	if again, err := ParseQuery(q.Msg); err != nil || again.Size != 600 {
		t.Errorf("after Clamp(600) the size is %v, %v", again, err)
	}
	plain, err := ParseQuery(query(t, "db.example.", dnsmessage.TypeAAAA, nil))
	if err != nil || plain.Size != MinUDP || plain.EDNS {
		t.Errorf("without EDNS: %+v, %v", plain, err)
	}
	if plain.Key() == q.Key() {
		t.Error("queries with EDNS and without have one key")
	}
	upper, err := ParseQuery(query(t, "DB.example.", dnsmessage.TypeAAAA, nil))
	if err != nil || upper.Key() != plain.Key() {
		t.Errorf("case makes another key: %v", err)
	}
	tiny, err := ParseQuery(query(t, "db.", dnsmessage.TypeA, edns(100, false, dnsmessage.Option{Code: 10, Data: make([]byte, 8)})))
	if err != nil || tiny.Size != MinUDP || !tiny.Alone {
		t.Errorf("a size below 512 and an option: %+v, %v", tiny, err)
	}
	// What others do not ask so is not answered to them.
	for what, change := range map[string]func([]byte) []byte{
		"a flag":                 func(m []byte) []byte { m[2] |= 2; return m },
		"a reserved bit":         func(m []byte) []byte { m[3] |= 1 << 6; return m },
		"a reserved bit of EDNS": func(m []byte) []byte { m[len(m)-3] |= 1; return m },
		"a further record": func(m []byte) []byte {
			m[9] = 1
			return append(m[:HeaderLen+len(plain.Question)], append([]byte{0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0}, m[HeaderLen+len(plain.Question):]...)...)
		},
	} {
		m := change(query(t, "db.example.", dnsmessage.TypeAAAA, edns(1400, true)))
		if q, err := ParseQuery(m); err != nil || !q.Alone {
			t.Errorf("with %s: %+v, %v", what, q, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	good := query(t, "a.b.", dnsmessage.TypeA, edns(1232, false))
	with := func(f func([]byte)) []byte {
		m := bytes.Clone(good)
		f(m)
		return m
	}
	for name, c := range map[string]struct {
		msg  []byte
		want error
	}{
		"empty":            {nil, ErrSilent},
		"short":            {good[:11], ErrSilent},
		"an answer":        {with(func(m []byte) { m[2] |= 0x80 }), ErrSilent},
		"an update":        {with(func(m []byte) { m[2] |= 5 << 3 }), ErrKind},
		"no question":      {with(func(m []byte) { m[5] = 0 }), ErrFormat},
		"two questions":    {with(func(m []byte) { m[5] = 2 }), ErrFormat},
		"cut in a name":    {good[:14], ErrFormat},
		"cut in a type":    {good[:18], ErrFormat},
		"a pointer":        {with(func(m []byte) { m[12], m[13] = 0xc0, 12 }), ErrFormat},
		"a reserved label": {with(func(m []byte) { m[12] = 0x41 }), ErrFormat},
		"records missing":  {with(func(m []byte) { m[7] = 9 }), ErrFormat},
		"data missing":     {with(func(m []byte) { m[len(m)-1] = 9 }), ErrFormat},
		"two of EDNS":      {append(with(func(m []byte) { m[11] = 2 }), good[len(good)-11:]...), ErrFormat},
		"a transfer":       {query(t, "a.b.", 252, nil), ErrKind},
		"a name too long": {append(append(bytes.Clone(good[:12]), bytes.Repeat([]byte("\x3f"+string(bytes.Repeat([]byte("x"), 63))), 4)...), 0, 0, 1, 0, 1),
			ErrFormat},
	} {
		if _, err := ParseQuery(c.msg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestAnswers(t *testing.T) {
	sent := query(t, "a.b.", dnsmessage.TypeA, nil)
	good := bytes.Clone(sent)
	good[2] |= 0x80
	if !Answers(good, sent) {
		t.Error("an answer is none")
	}
	for name, f := range map[string]func([]byte){
		"another id": func(m []byte) { m[1]++ }, "a query": func(m []byte) { m[2] &^= 0x80 },
		"another name": func(m []byte) { m[13] = 'x' }, "another case": func(m []byte) { m[13] = 'A' },
		"another type": func(m []byte) { m[18] = 28 }, "no question": func(m []byte) { m[5] = 0 },
	} {
		bad := bytes.Clone(good)
		f(bad)
		if Answers(bad, sent) {
			t.Errorf("%s counts as the answer", name)
		}
	}
	if Answers(good[:12], sent) || Answers(nil, sent) {
		t.Error("a cut answer counts")
	}
	for code, want := range map[byte]bool{Success: false, FormatError: true, ServerFailure: true, NameError: false, NotImplemented: true, Refused: true} {
		head := bytes.Clone(good[:HeaderLen])
		head[3], head[5] = code, 0
		if got := Answers(head, sent); got != want {
			t.Errorf("a header with code %d counts: %v", code, got)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, opt := range []func(*dnsmessage.Builder){nil, edns(600, false)} {
		q, err := ParseQuery(query(t, "Many.Example.", dnsmessage.TypeA, opt))
		if err != nil {
			t.Fatal(err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(q.Msg); err != nil {
			t.Fatal(err)
		}
		m.Response, m.AuthenticData, m.RCode = true, true, dnsmessage.RCodeNameError
		for i := range 100 {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 7}, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, byte(i)}}})
		}
		m.Authorities = m.Answers[:1]
		long, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		size, room := q.Size, q.Room(q.Size)
		short := Shorten(long, q, size)
		var got dnsmessage.Message
		if err := got.Unpack(short); err != nil || len(short) > size || !Truncated(short) || !got.AuthenticData || got.RCode != dnsmessage.RCodeNameError {
			t.Fatalf("%d bytes, %v: %v", len(short), err, got.GoString())
		}
		if len(got.Answers) != room/16 || len(got.Authorities) != 0 || len(got.Additionals) != len(m.Additionals) {
			t.Errorf("of %d bytes: %d answers, %d of %d further", size, len(got.Answers), len(got.Authorities), len(got.Additionals))
		}
		if list, _ := Addresses(short); len(list) != room/16 || list[3].String() != "10.0.0.3" {
			t.Errorf("the addresses are %v", list)
		}
		if bare := Shorten(long[:len(q.Question)+HeaderLen+5], q, size); len(bare) != size-room || !Truncated(bare) {
			t.Errorf("of half a record: %x", bare)
		}
	}
}

func TestReverse(t *testing.T) {
	for name, want := range map[string]string{
		"5.0.18.172.in-addr.arpa": "172.18.0.5",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "2001:db8::1",
		"5.0.18.in-addr.arpa": "", "300.0.18.172.in-addr.arpa": "", "x.ip6.arpa": "", "in-addr.arpa": "",
		"1x0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "",
	} {
		a, ok := Reverse(name)
		if ok != (want != "") || ok && a != netip.MustParseAddr(want) {
			t.Errorf("%s: %v %v, want %q", name, a, ok, want)
		}
	}
}

// FuzzWire: whatever comes, nothing panics, and what is answered can be read.
func FuzzWire(f *testing.F) {
	f.Add(query(f, "a.b.", dnsmessage.TypeA, edns(1232, true)))
	f.Add([]byte("\x00\x01\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x01\x02\x03\x04"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, err := ParseQuery(bytes.Clone(msg))
		if err == nil {
			_ = q.Key()
			q.Clamp(700)
			if !Answers(Bare(q, Success, 0), q.Msg) {
				t.Error("a bare answer does not answer")
			}
			var p dnsmessage.Parser
			if _, err := p.Start(Bare(q, BadVersion, FlagTruncated)); err != nil {
				t.Error(err)
			}
		} else if r := Refusal(msg, err); r != nil && len(r) != HeaderLen {
			t.Errorf("a refusal of %d bytes", len(r))
		}
		Addresses(msg)
		Cut(msg)
		Reverse(string(msg))
		Answers(msg, msg)
		if q, err := ParseQuery(query(t, "a.", dnsmessage.TypeA, edns(512, false))); err != nil || len(Shorten(msg, q, 512)) > max(512, HeaderLen+255+4+optLen) {
			t.Errorf("%x is made longer than 512 bytes (%v)", msg, err)
		}
	})
}
