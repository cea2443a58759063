package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/network/dns/names"
	"hezi/internal/network/dns/sockets"
	"hezi/internal/network/dns/upstream"
	"hezi/internal/network/dns/wire"
)

const (
	maxQuery = 4096 // bytes
	// turn is how many questions of one container are answered before another's.
	turn = 16
	// maxForwards are on their way at once, maxOfOne of one container. The last quarter
	// is for containers that have less than fewOfOne.
	maxForwards, maxOfOne, fewOfOne = 1024, 128, 8
)

// Admit is told of the addresses that a name has, before the container hears of them:
// when it returns, packets may go there. ttl is how long the answer is good for. An error
// keeps the answer from the container.
type Admit func(ctx context.Context, container, name string, list []netip.Addr, ttl time.Duration) error

// Options of a Server.
type Options struct {
	Names    *names.Table
	Upstream *upstream.Resolver
	Admit    Admit // may be nil
}

// Box is a container that asks.
type Box struct {
	Container string
	// Sockets are the server's from Add on, which closes them at Remove.
	Sockets sockets.Pair
	Policy
}

// Policy is what is done with names that are not ours.
type Policy struct {
	// Own are the container's own servers (--dns), which are asked from its Namespace;
	// nil: the host's.
	Own       []netip.Addr
	Namespace string // a file
	// Forward is false for a container that reaches nothing but its networks: the
	// host's servers are not asked for it.
	Forward bool
	// Allow says which names others may be asked for; nil: all. It is called once for each
	// question.
	Allow func(name string) bool
	// Dotted: a name without a dot is no name of the outside (ndots was asked for).
	Dotted bool
}

// Server is safe for concurrent use.
type Server struct {
	Options
	names *names.Table
	poll  *os.File // an epoll
	ctx   context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	begun    bool
	boxes    map[string]*box
	ears     map[int32]*ear
	next     int32
	runs     uint64
	forwards int
	conns    int
}

// ear is one socket of a box.
type ear struct {
	box    *box
	fd     int
	stream bool
}

type box struct {
	id    string
	keys  [2]int32 // of its ears
	conns []*conn  // oldest first; guarded by Server.mu

	outstanding int // guarded by Server.mu

	// ctx ends with the box; questions to its own servers end with it.
	ctx context.Context
	end context.CancelFunc

	mu     sync.RWMutex // held while a descriptor is used
	closed bool
	pair   sockets.Pair
	policy Policy
	run    uint64 // tells its answers from others' with the same servers and namespace
}

// New makes a server, which answers from Begin on: a container that was taken back must
// not hear that there is no other, which is taken back a moment later.
func New(o Options) (*Server, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // or Go's poller does not take it
	}
	if err != nil {
		return nil, fmt.Errorf("the name service: make an epoll: %w", err)
	}
	s := &Server{Options: o, names: o.Names, poll: os.NewFile(uintptr(fd), "epoll"), boxes: map[string]*box{}, ears: map[int32]*ear{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Begin has all questions answered, also those that wait.
func (s *Server) Begin() error {
	raw, err := s.poll.SyscallConn()
	if err != nil {
		return fmt.Errorf("the name service: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun && !s.closed {
		s.begun = true
		s.wg.Add(1)
		go s.listen(raw)
	}
	return nil
}

// parting is how long Close waits for what is on its way.
const parting = 300 * time.Millisecond

// Close ends the server. The holder's copies of the sockets stay, and questions wait in
// them; those that were taken out are answered, if they can be within a moment.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	all := slices.Collect(maps.Keys(s.boxes))
	s.mu.Unlock()
	errs := []error{s.poll.Close()}
	for until := time.Now().Add(parting); s.busy() && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	s.end()
	for _, id := range all {
		errs = append(errs, s.Remove(id))
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forwards > 0
}

// Add begins to answer a container. On an error the sockets stay the caller's.
func (s *Server) Add(in Box) error {
	b := &box{id: in.Container, pair: in.Sockets, policy: clean(in.Policy)}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errors.New("the name service is closed")
	case s.boxes[b.id] != nil:
		return fmt.Errorf("the container %s has its names already", b.id)
	}
	for i, e := range []*ear{{b, b.pair.UDP, false}, {b, b.pair.TCP, true}} {
		s.next++
		b.keys[i] = s.next
		s.ears[s.next] = e
		if err := s.control(unix.EPOLL_CTL_ADD, e.fd, s.next); err != nil {
			for j := range i {
				err = errors.Join(err, s.control(unix.EPOLL_CTL_DEL, []int{b.pair.UDP, b.pair.TCP}[j], 0))
			}
			delete(s.ears, b.keys[0])
			delete(s.ears, b.keys[1])
			return fmt.Errorf("listen to the container %s: %w", b.id, err)
		}
	}
	b.ctx, b.end = context.WithCancel(s.ctx)
	s.runs++
	b.run = s.runs
	s.boxes[b.id] = b
	return nil
}

func (s *Server) control(op, fd int, key int32) error {
	raw, err := s.poll.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(p uintptr) {
		err = unix.EpollCtl(int(p), op, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: key})
	})
	return errors.Join(err, cerr)
}

// SetPolicy changes what is done with names that are not ours. What the container's
// own servers said before is forgotten: it may reach others by their addresses now.
func (s *Server) SetPolicy(container string, p Policy) {
	s.mu.Lock()
	b := s.boxes[container]
	s.runs++
	run := s.runs
	s.mu.Unlock()
	if b != nil {
		b.mu.Lock()
		b.policy, b.run = clean(p), run
		b.mu.Unlock()
	}
}

// clean leaves us out of the servers that are asked from the container: it would
// be a circle.
func clean(p Policy) Policy {
	if p.Own != nil {
		p.Own = slices.DeleteFunc(slices.Clone(p.Own), func(a netip.Addr) bool { return a.Unmap() == netip.AddrFrom4(sockets.Address) })
	}
	return p
}

// Remove ends a container's service and closes its sockets. One that is not there
// is none of its business.
func (s *Server) Remove(container string) error {
	s.mu.Lock()
	b := s.boxes[container]
	if b == nil {
		s.mu.Unlock()
		return nil
	}
	delete(s.boxes, container)
	var errs []error
	for i, fd := range []int{b.pair.UDP, b.pair.TCP} {
		if s.ears[b.keys[i]] != nil && !s.closed { // the holder's copy would keep it in the epoll
			errs = append(errs, s.control(unix.EPOLL_CTL_DEL, fd, 0))
		}
		delete(s.ears, b.keys[i])
	}
	conns := b.conns
	b.conns = nil
	s.conns -= len(conns)
	s.mu.Unlock()
	b.end()
	for _, c := range conns {
		c.Close()
	}
	b.mu.Lock()
	b.closed = true
	errs = append(errs, b.pair.Close())
	b.mu.Unlock()
	return errors.Join(errs...)
}

// listen reads all sockets until Close.
func (s *Server) listen(poll syscall.RawConn) {
	defer s.wg.Done()
	events, buf := make([]unix.EpollEvent, 64), make([]byte, maxQuery+1)
	for {
		var n int
		var err error
		over := poll.Read(func(fd uintptr) bool {
			n, err = unix.EpollWait(int(fd), events, 0)
			return n != 0 && err != unix.EINTR
		})
		if over != nil {
			return
		}
		if err != nil {
			slog.Error("the name service of containers ended: wait for sockets", "error", err)
			return
		}
		for _, e := range events[:n] {
			s.mu.Lock()
			ear := s.ears[e.Fd]
			s.mu.Unlock()
			switch {
			case ear == nil: // removed meanwhile
			case e.Events&unix.EPOLLHUP != 0 || e.Events&unix.EPOLLERR != 0 && ear.dead():
				s.deafen(e.Fd, ear)
			case ear.stream:
				s.accept(ear.box)
			default:
				s.read(ear.box, buf)
			}
		}
	}
}

// dead says whether a socket's error is more than one that passes.
func (e *ear) dead() bool {
	e.box.mu.RLock()
	defer e.box.mu.RUnlock()
	if e.box.closed {
		return false
	}
	_, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_ERROR) // and clears it
	_, gone := sockets.Port(e.fd)
	return err != nil || gone != nil
}

// deafen gives up a socket that was destroyed from inside the container, which a program
// with the right to rule its network can do: it would be ready for ever.
func (s *Server) deafen(key int32, e *ear) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ears[key] != e {
		return
	}
	delete(s.ears, key)
	if err := s.control(unix.EPOLL_CTL_DEL, e.fd, 0); err != nil {
		slog.Error("give up a socket of the name service", "container", e.box.id, "error", err)
	}
	slog.Warn("a container has destroyed the socket of its own name service: it gets no more answers there until it is started again", "container", e.box.id, "tcp", e.stream)
}

// read answers what waits in a socket, a turn of it.
func (s *Server) read(b *box, buf []byte) {
	for range turn {
		b.mu.RLock()
		if b.closed {
			b.mu.RUnlock()
			return
		}
		n, from, err := unix.Recvfrom(b.pair.UDP, buf, unix.MSG_DONTWAIT)
		b.mu.RUnlock()
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // nothing waits, or an error that the next turn sees
		}
		if n > maxQuery { // no question is as long
			continue
		}
		s.serve(b, buf[:n], false, func(msg []byte) { b.send(msg, from) })
	}
}

// send is lost where the socket's buffer is full, as packets are.
func (b *box) send(msg []byte, to unix.Sockaddr) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.closed && msg != nil {
		_ = unix.Sendto(b.pair.UDP, msg, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, to)
	}
}

// serve answers one message, which stays the caller's; reply is called once, now or
// later from another goroutine, with nil if there is no answer.
func (s *Server) serve(b *box, msg []byte, stream bool, reply func([]byte)) {
	q, err := wire.ParseQuery(msg)
	if err != nil {
		reply(wire.Refusal(msg, err))
		return
	}
	size := q.Size
	if stream {
		size = 1<<16 - 1
	}
	if q.EDNS && q.Version != 0 {
		reply(wire.Bare(q, wire.BadVersion, 0))
		return
	}
	if r := s.local(b, q, size); r != nil {
		reply(s.admitted(b, q, r))
		return
	}
	b.mu.RLock()
	p, run := b.policy, b.run
	b.mu.RUnlock()
	switch {
	case p.Dotted && (q.Type == wire.TypeA || q.Type == wire.TypeAAAA) && !strings.Contains(q.Name, ".") && q.Name != "":
		reply(wire.Bare(q, wire.Success, 0)) // the client goes on with its search domains
	case p.Allow != nil && !p.Allow(q.Name):
		reply(wire.Bare(q, wire.Refused, 0))
	case !p.Forward && p.Own == nil:
		reply(wire.Bare(q, wire.ServerFailure, 0))
	case !s.enter(b):
		reply(s.tooMany(q))
	default:
		q, err := wire.ParseQuery(slices.Clone(msg)) // the buffer is used again
		if err != nil {
			s.leave(b) // it was read before: cannot happen, and must not end the engine
			return
		}
		go func() {
			defer s.leave(b)
			reply(s.admitted(b, q, s.forward(b, q, stream, p, run)))
		}()
	}
}

// forward asks other servers.
func (s *Server) forward(b *box, q *wire.Query, stream bool, p Policy, run uint64) []byte {
	ctx, from := s.ctx, upstream.Source{} // others may wait for the same answer of the host's servers
	if p.Own != nil {
		ctx, from = b.ctx, upstream.Source{Own: p.Own, Namespace: p.Namespace, Run: run}
	}
	size := q.Size
	q.Clamp(upstream.MaxUDP)
	msg, err := s.Upstream.Ask(ctx, q, stream, from)
	if err != nil {
		if ctx.Err() != nil { // the client asks the next server of ours again
			return nil
		}
		slog.Debug("no answer from name servers", "name", q.Name, "error", err)
		return wire.Bare(q, wire.ServerFailure, 0)
	}
	if !stream && len(msg) > size {
		return wire.Shorten(msg, q, size)
	}
	return msg
}

// admitted is the answer once the addresses in it may be used.
func (s *Server) admitted(b *box, q *wire.Query, msg []byte) []byte {
	if s.Admit == nil || msg == nil {
		return msg
	}
	list, ttl := wire.Addresses(msg)
	if len(list) == 0 {
		return msg
	}
	if err := s.Admit(s.ctx, b.id, q.Name, list, time.Duration(ttl)*time.Second); err != nil {
		slog.Warn("a name's addresses cannot be admitted", "container", b.id, "name", q.Name, "error", err)
		return wire.Bare(q, wire.ServerFailure, 0)
	}
	return msg
}

// enter says whether one more query of a box may be on its way.
func (s *Server) enter(b *box) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.forwards >= maxForwards || b.outstanding >= maxOfOne ||
		s.forwards >= maxForwards*3/4 && b.outstanding >= fewOfOne {
		return false
	}
	s.forwards++
	b.outstanding++
	s.wg.Add(1)
	return true
}

// tooMany refuses a query, or leaves it to the next server of ours, of which the client asks
// again what had no answer.
func (s *Server) tooMany(q *wire.Query) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	return wire.Bare(q, wire.Refused, 0)
}

func (s *Server) leave(b *box) {
	s.mu.Lock()
	s.forwards--
	b.outstanding--
	s.mu.Unlock()
	s.wg.Done()
}
