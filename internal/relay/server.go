package relay

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of one relay. What comes over them waits in the sockets, or, of UDP, takes the
// place of what has been still for longest.
const (
	maxConnections = 2048 // each has six descriptors: two sockets and two pipes
	maxPerPort     = 1024
	maxFlows       = 1024
	spareFiles     = 512 // of the limit of descriptors, for all but connections and flows
)

const (
	idleFor  = 3 * time.Second // without a port and a connection, the relay ends
	lookFor  = 2 * time.Second // whether the engine is gone for good
	dialFor  = 10 * time.Second
	flowIdle = 90 * time.Second
)

// Run is the relay's main: it serves until there is nothing to relay, and returns the exit
// code. alive says whether the engine's keeper still runs, enter is called before
// anything is served.
func Run(args []string, enter func(identity string) error, alive func(execRoot string) bool) int {
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	root, identity := flags.String("root", "", "exec root"), flags.String("identity", "", "of the engine")
	if err := flags.Parse(args); err != nil || *root == "" {
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := enter(*identity)
	if err == nil {
		err = serve(*root, func() bool { return alive(*root) }, log)
	}
	if err != nil {
		log.Error("the relay of ::1 ends", "error", err)
		return 1
	}
	return 0
}

// server relays. Its locks: mu is held for moments alone, never over the network.
type server struct {
	log   *slog.Logger
	alive func() bool
	epoll int
	most  int // connections, as the limit of descriptors allows
	flows flows

	mu     sync.Mutex
	ports  map[string]*port // by key
	byID   map[int32]*port  // as epoll names them
	nextID int32
	open   map[*pair]bool
	ended  int // connections, since spare pipes were closed
	hezid  *net.UnixConn
	busy   time.Time // when there was something to relay
	over   bool
}

// port is one socket that is relayed.
type port struct {
	key, owner string
	id         int32
	fd         int // -1: closed
	ino        uint64
	stream     bool
	fresh      bool // it has come since the last sync
	full       bool // no further connection is taken
	to         netip.AddrPort
	open       int // connections
}

func serve(execRoot string, alive func() bool, log *slog.Logger) error {
	if err := os.MkdirAll(folder(execRoot), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(folder(execRoot), "relay.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // there is one
	}
	path := socketPath(execRoot)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	s, err := newServer(alive, log)
	if err != nil {
		return err
	}
	go s.poll()
	go s.control(l)
	s.untilOver()
	return nil
}

func newServer(alive func() bool, log *slog.Logger) (*server, error) {
	s := &server{log: log, alive: alive, most: maxConnections, ports: map[string]*port{}, byID: map[int32]*port{}, open: map[*pair]bool{}, busy: time.Now()}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	if limit.Cur < maxConnections*6+maxFlows+spareFiles {
		s.most = max(16, (int(limit.Cur)-maxFlows-spareFiles)/6)
	}
	s.flows.init()
	var err error
	s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return s, err
}

// untilOver returns when there has been nothing to do for a while, when the engine was
// told to stop, or is gone for good.
func (s *server) untilOver() {
	gone, ended := 0, 0
	for {
		time.Sleep(lookFor / 4)
		s.mu.Lock()
		if len(s.ports) > 0 || len(s.open) > 0 {
			s.busy = time.Now()
		}
		over, alone := s.over || time.Since(s.busy) > idleFor, s.hezid == nil
		spare := s.ended > 0 && s.ended == ended // none has ended since the last look
		if spare {
			s.ended = 0
		}
		ended = s.ended
		s.mu.Unlock()
		if spare {
			closePipes()
		}
		if gone++; !alone || s.alive() {
			gone = 0
		}
		if over || gone >= 4 {
			return
		}
	}
}

// closePipes closes those that net keeps for the next splice(2), in a sync.Pool: two
// collections empty it. Else they stay until the runtime collects by itself.
func closePipes() {
	runtime.GC()
	runtime.GC()
}

// control does what hezid says. A new one takes the place of the one before.
func (s *server) control(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			s.log.Error("wait for the engine", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		if s.hezid != nil {
			s.hezid.Close()
		}
		s.hezid = c
		s.mu.Unlock()
		go s.obey(c)
	}
}

func (s *server) obey(c *net.UnixConn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		if s.hezid == c {
			s.hezid = nil
		}
		s.mu.Unlock()
	}()
	for {
		m, err := receive(c)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Error("a message of the engine", "error", err)
			}
			return
		}
		s.mu.Lock()
		if s.hezid == c {
			s.do(m)
		} else if m.Port != nil && m.Port.Socket >= 0 {
			_ = unix.Close(m.Port.Socket)
		}
		over := s.over
		s.mu.Unlock()
		if over { // its end tells the engine
			os.Exit(0)
		}
	}
}

// do runs with mu held.
func (s *server) do(m message) {
	switch m.Op {
	case opSync:
		for _, p := range s.ports {
			p.fresh = false
		}
	case opSynced:
		owners := map[string]bool{}
		for _, p := range s.ports {
			owners[p.owner] = owners[p.owner] || p.fresh
		}
		for _, p := range s.ports {
			if !p.fresh {
				s.dropLocked(p)
			}
		}
		for c := range s.open {
			if !owners[c.owner] {
				c.reset()
			}
		}
	case opPort:
		if m.Port == nil {
			return
		}
		if err := s.addLocked(m.Owner, *m.Port); err != nil {
			s.log.Error("a port is not relayed", "port", m.Port.Key, "error", err)
		}
	case opGone:
		if m.Ended {
			s.endLocked(m.Owner)
		} else if m.Port != nil && s.ports[m.Port.Key] != nil {
			s.dropLocked(s.ports[m.Port.Key])
		}
	case opStop:
		s.over = true
	}
}

// addLocked takes a port, or learns where one leads now.
func (s *server) addLocked(owner string, a Port) error {
	p := s.ports[a.Key]
	if a.Socket < 0 {
		if p != nil {
			s.leadLocked(p, a.To)
		}
		return nil
	}
	kind, ino, err := inspect(a.Socket)
	if err != nil {
		return errors.Join(err, unix.Close(a.Socket))
	}
	if p != nil && p.ino == ino {
		s.leadLocked(p, a.To)
		return unix.Close(a.Socket)
	}
	if p != nil {
		s.dropLocked(p)
	}
	s.nextID++
	p = &port{key: a.Key, owner: owner, id: s.nextID, fd: a.Socket, ino: ino, stream: kind == unix.SOCK_STREAM, fresh: true, to: a.To}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, p.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: p.id}); err != nil {
		return errors.Join(err, unix.Close(p.fd))
	}
	s.ports[p.key], s.byID[p.id] = p, p
	return nil
}

// leadLocked says where a port leads now. Clients of UDP, who may never be still for
// long, are led there too.
func (s *server) leadLocked(p *port, to netip.AddrPort) {
	if p.to != to {
		s.flows.drop(p.id)
	}
	p.to, p.fresh = to, true
}

// endLocked ends all that an owner has.
func (s *server) endLocked(owner string) {
	for _, p := range s.ports {
		if p.owner == owner {
			s.dropLocked(p)
		}
	}
	for c := range s.open {
		if c.owner == owner {
			c.reset()
		}
	}
}

// dropLocked takes no more for a port. Connections that are open go on.
func (s *server) dropLocked(p *port) {
	if s.ports[p.key] == p {
		delete(s.ports, p.key)
	}
	delete(s.byID, p.id)
	// Others have the socket too, so that closing it is not enough.
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, p.fd, nil); err != nil {
		s.log.Error("let go of a port", "port", p.key, "error", err)
	}
	if err := unix.Close(p.fd); err != nil {
		s.log.Error("let go of a port", "port", p.key, "error", err)
	}
	p.fd = -1
	s.flows.drop(p.id)
}

// poll waits for all ports. Go's own poller would take the sockets for its own, and they
// are those of keeper and holder as well: so they block, and are asked when they have
// something.
func (s *server) poll() {
	events, buf := make([]unix.EpollEvent, 64), make([]byte, maxDatagram)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			s.log.Error("wait for clients", "error", err)
			time.Sleep(100 * time.Millisecond)
		}
		for _, e := range events[:max(n, 0)] {
			s.mu.Lock()
			p := s.byID[e.Fd]
			switch {
			case p == nil:
			case p.stream && e.Events&unix.EPOLLHUP != 0:
				s.dropLocked(p) // shut down (ports.Hold.End), which is told without end, wanted or not
			case p.stream:
				s.acceptLocked(p)
			default:
				s.datagramLocked(p, buf)
			}
			s.mu.Unlock()
		}
	}
}
