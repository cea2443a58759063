package dns

import (
	"math/rand/v2"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"

	"hezi/internal/network/dns/wire"
)

// lifetime of answers for names of containers, in seconds. Docker's is 600: a
// program that keeps answers then talks to an address that another container has
// by now. To ask us again costs less than a tenth of a millisecond.
const lifetime = 5

// What a record with a compressed name takes in a message.
const (
	headLen = 12 // of a record
	lenV4   = headLen + 4
	lenV6   = headLen + 16
)

// local answers for names of ours; nil: it is not one. size is what the client
// takes.
func (s *Server) local(b *box, q *wire.Query, size int) []byte {
	if q.Class != wire.ClassIN || q.Name == "" {
		return nil
	}
	switch q.Type {
	case wire.TypePTR:
		if a, ok := wire.Reverse(q.Name); ok {
			if name, found := s.names.Reverse(b.id, a); found {
				return pointer(q, name)
			}
		}
		return nil
	case wire.TypeA, wire.TypeAAAA, wire.TypeANY:
		v6 := q.Type == wire.TypeAAAA
		list, found := s.names.Lookup(b.id, q.Name, v6)
		if !found {
			return nil
		}
		if q.Type == wire.TypeANY {
			other, _ := s.names.Lookup(b.id, q.Name, true)
			list = append(list, other...)
		}
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return addresses(q, list, size)
	}
	// The name is ours, and other servers must not say that there is none.
	if _, found := s.names.Lookup(b.id, q.Name, false); found {
		return wire.Bare(q, wire.Success, 0)
	}
	return nil
}

// addresses answers with as many as the client takes.
func addresses(q *wire.Query, list []netip.Addr, size int) []byte {
	room, n := q.Room(size), 0
	for n < len(list) {
		if list[n].Is4() {
			room -= lenV4
		} else {
			room -= lenV6
		}
		if room < 0 {
			break
		}
		n++
	}
	return build(q, n < len(list), func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		for _, a := range list[:n] {
			var err error
			if a.Is4() {
				err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
			} else {
				err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func pointer(q *wire.Query, name string) []byte {
	target, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return wire.Bare(q, wire.ServerFailure, 0)
	}
	return build(q, false, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		return b.PTRResource(h, dnsmessage.PTRResource{PTR: target})
	})
}

// build makes an answer. A name that the library refuses is none that we hold.
func build(q *wire.Query, cut bool, fill func(*dnsmessage.Builder, dnsmessage.ResourceHeader) error) []byte {
	failed := wire.Bare(q, wire.ServerFailure, 0)
	var p dnsmessage.Parser
	if _, err := p.Start(q.Msg); err != nil {
		return failed
	}
	question, err := p.Question()
	if err != nil {
		return failed
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: wire.ID(q.Msg), Response: true, Truncated: cut,
		RecursionDesired: q.Flags&wire.FlagRecursion != 0, RecursionAvailable: true, CheckingDisabled: q.Flags&wire.FlagUnchecked != 0})
	b.EnableCompression()
	err = b.StartQuestions()
	if err == nil {
		err = b.Question(question)
	}
	if err == nil {
		err = b.StartAnswers()
	}
	if err == nil {
		err = fill(&b, dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: lifetime})
	}
	if err != nil {
		return failed
	}
	msg, err := b.Finish()
	if err != nil {
		return failed
	}
	return wire.AppendOPT(msg, q, wire.Success)
}
