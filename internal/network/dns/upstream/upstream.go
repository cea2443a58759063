// Package upstream asks other name servers: the host's, from its network, or a
// container's own (--dns), from its.
//
// A query goes to the first server; if that does not answer within a moment, or
// answers that it cannot, the next is asked too, and the first good answer counts.
// What is on its way is asked once, however many ask for it. Answers are kept as
// long as they say; when the host's servers change, the old ones' are forgotten, and
// a query on its way goes on to the new ones.
package upstream

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/network/dns/wire"
)

const (
	// patience with one query: below the 5 s after which resolvers ask again.
	patience = 4500 * time.Millisecond
	// moment after which the next server is asked too.
	moment = 700 * time.Millisecond
	// tries of one query.
	tries = 6
	// demoted is how long a server that did not answer is asked last.
	demoted = 10 * time.Second
	// maxSockets at once, of all queries.
	maxSockets = 2048
	// strays are answers to another question that are read before a server is given
	// up.
	strays = 32
	// MaxUDP is the longest answer over UDP in bytes.
	MaxUDP = 4096
)

// ErrSilence: no server answered. The reasons are wrapped.
var ErrSilence = errors.New("no name server answered")

// Source is whom to ask.
type Source struct {
	// Own are a container's own servers, Namespace the file of its network; nil:
	// the host's.
	Own       []netip.Addr
	Namespace string
	// Run tells a namespace from later ones with the same file: what one was answered,
	// perhaps by a program inside, is none of another's.
	Run uint64
}

// Resolver asks. It is safe for concurrent use.
type Resolver struct {
	host *Host
	port uint16

	cache cache

	most int // sockets at once

	mu      sync.Mutex
	sockets int
	gen     uint64
	flights map[string]*flight
	late    map[Server]time.Time // when they may be asked first again
}

type flight struct {
	done chan struct{}
	msg  []byte
	err  error
}

// New makes a resolver for the host's servers. Port is that of all servers; 0: 53.
func New(host *Host, port uint16) *Resolver {
	if port == 0 {
		port = 53
	}
	return &Resolver{host: host, port: port, most: mostSockets(), flights: map[string]*flight{}, late: map[Server]time.Time{}}
}

// mostSockets is a quarter of the descriptors that the engine may have, so that containers
// which ask too much leave it the rest, and no more than servers are to be bothered with.
func mostSockets() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxSockets
	}
	return int(min(limit.Cur/4, maxSockets))
}

// socket says whether there may be one more, which is given up by end. The half is for those
// who ask the first time.
func (r *Resolver) socket(again bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sockets >= r.most || again && r.sockets >= r.most/2 {
		return false
	}
	r.sockets++
	return true
}

func (r *Resolver) end() {
	r.mu.Lock()
	r.sockets--
	r.mu.Unlock()
}

// servers of a source, and what tells them from others.
func (r *Resolver) servers(from Source) (list []Server, scope string) {
	addrs := from.Own
	if addrs == nil {
		var gen uint64
		addrs, gen = r.host.Servers()
		r.mu.Lock()
		changed := r.gen != gen
		r.gen = gen
		r.mu.Unlock()
		if changed {
			r.cache.clear()
		}
		scope = strconv.FormatUint(gen, 10)
	} else {
		scope = fmt.Sprint(from.Run, from.Namespace, from.Own)
	}
	for _, a := range addrs {
		list = append(list, Server{Addr: netip.AddrPortFrom(a, r.port), Namespace: from.Namespace})
	}
	return list, scope
}

// Ask forwards a query, over TCP if stream, and returns the answer, which is the
// caller's. Error: ErrSilence, or the context's.
func (r *Resolver) Ask(ctx context.Context, q *wire.Query, stream bool, from Source) ([]byte, error) {
	_, scope := r.servers(from)
	shared := !q.Alone
	key := scope + "\x00" + q.Key()
	if shared {
		if msg := r.cache.get(key, time.Now()); msg != nil {
			wire.Fit(msg, q)
			return msg, nil
		}
	}
	if !shared {
		f := &flight{done: make(chan struct{})}
		r.fly(ctx, f, q, stream, from)
		return f.msg, f.err
	}
	id := key + strconv.FormatBool(stream) + strconv.Itoa(q.Size)
	r.mu.Lock()
	f := r.flights[id]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		r.flights[id] = f
		r.mu.Unlock()
		r.fly(ctx, f, q, stream, from)
		if _, now := r.servers(from); f.err == nil && now == scope {
			r.cache.put(key, f.msg, time.Now())
		}
		r.mu.Lock()
		delete(r.flights, id)
		r.mu.Unlock()
		close(f.done)
	} else {
		r.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	msg := bytes.Clone(f.msg)
	wire.Fit(msg, q)
	return msg, nil
}

// fly asks with an id of its own and fills in the flight.
func (r *Resolver) fly(ctx context.Context, f *flight, q *wire.Query, stream bool, from Source) {
	sent := bytes.Clone(q.Msg)
	var id [2]byte
	rand.Read(id[:]) // never fails
	wire.SetID(sent, binary.BigEndian.Uint16(id[:]))
	if f.msg, f.err = r.race(ctx, sent, stream, from); f.err == nil {
		wire.Fit(f.msg, q)
	}
}

type outcome struct {
	server Server
	msg    []byte
	err    error
}

// race asks server after server until one answers well.
func (r *Resolver) race(ctx context.Context, sent []byte, stream bool, from Source) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	outcomes := make(chan outcome, tries)
	next := time.NewTimer(0)
	defer next.Stop()
	failed, asked := map[Server]bool{}, map[Server]int{}
	var bad []byte
	var errs []error
	waiting, begun := 0, 0
	for {
		select {
		case <-next.C:
			servers, _ := r.servers(from)
			s, ok := r.pick(servers, failed, asked)
			if !ok || begun == tries {
				if waiting == 0 {
					return silence(bad, errs)
				}
				continue
			}
			switch ok := r.socket(begun > 0); {
			case !ok && begun == 0:
				return nil, fmt.Errorf("%w: %d questions are on their way", ErrSilence, r.most)
			case !ok:
				next.Reset(moment)
				continue
			}
			begun, waiting, asked[s] = begun+1, waiting+1, asked[s]+1
			go func() {
				defer r.end()
				msg, err := exchange(ctx, s, sent, stream)
				outcomes <- outcome{s, msg, err}
			}()
			next.Reset(moment)
		case o := <-outcomes:
			waiting--
			if o.err == nil {
				if code := wire.Rcode(o.msg); code != wire.ServerFailure && code != wire.Refused && code != wire.NotImplemented {
					r.demote(o.server, asked)
					return o.msg, nil
				}
				bad = o.msg
			} else {
				errs = append(errs, o.err)
			}
			failed[o.server] = true
			next.Reset(0)
		case <-ctx.Done():
			r.demote(Server{}, asked)
			return silence(bad, append(errs, ctx.Err()))
		}
	}
}

// silence is the answer when no server has a good one.
func silence(bad []byte, errs []error) ([]byte, error) {
	if bad != nil {
		return bad, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrSilence, errors.Join(errs...))
}

// pick is the server to ask next: the least asked, in their order but for those
// that were late.
func (r *Resolver) pick(servers []Server, failed map[Server]bool, asked map[Server]int) (Server, bool) {
	servers = slices.DeleteFunc(servers, func(s Server) bool { return failed[s] })
	if len(servers) == 0 {
		return Server{}, false
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.MinFunc(servers, func(a, b Server) int {
		if n := asked[a] - asked[b]; n != 0 {
			return n
		}
		la, lb := now.Before(r.late[a]), now.Before(r.late[b])
		switch {
		case la == lb:
			return 0
		case la:
			return 1
		}
		return -1
	}), true
}

// demote has the servers asked last for a while that were asked before the one
// that answered.
func (r *Resolver) demote(good Server, asked map[Server]int) {
	if len(asked) < 2 && good != (Server{}) {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.late) > 256 {
		clear(r.late)
	}
	for s := range asked {
		if s != good {
			r.late[s] = now.Add(demoted)
		}
	}
	delete(r.late, good)
}

// exchange asks one server once.
func exchange(ctx context.Context, s Server, sent []byte, stream bool) ([]byte, error) {
	conn, err := dial(ctx, s, stream)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if stream {
		return overTCP(conn, sent)
	}
	return overUDP(conn, sent)
}

var errStrange = errors.New("the name server answered another question")

func overUDP(conn net.Conn, sent []byte) ([]byte, error) {
	if _, err := conn.Write(sent); err != nil {
		return nil, err
	}
	buf := make([]byte, MaxUDP+1)
	for range strays {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if !wire.Answers(buf[:n], sent) {
			continue
		}
		if n > MaxUDP { // cut by us
			return wire.Cut(buf[:n]), nil
		}
		return bytes.Clone(buf[:n]), nil
	}
	return nil, errStrange
}

func overTCP(conn net.Conn, sent []byte) ([]byte, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(sent))), sent...)); err != nil {
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	if !wire.Answers(msg, sent) {
		return nil, errStrange
	}
	return msg, nil
}
