package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Options of a Client.
type Options struct {
	ExecRoot string // absolute
	Identity string // names the engine's cgroup
	Binary   string // hezi-keeper's path
	Env      []string
	Log      *slog.Logger
}

// Client has ports relayed: it starts a relay when there are any, tells it of each change,
// and starts another where one has died. Its methods may be called from any goroutine and
// never wait for the relay for longer than writeFor.
type Client struct {
	o    Options
	kick chan struct{}
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex // also held while one message is written: a socket is not closed meanwhile
	want  map[string][]Port
	begun bool          // all that there was is in want
	due   bool          // catchUp will be called
	conn  *net.UnixConn // nil: none
	told  map[string][]Port
}

// behind is how long new ports wait until the relay is told, off the way of a start: who
// connects meanwhile waits in the sockets.
const behind = 100 * time.Millisecond

// writeFor is how long a message may take.
const writeFor = time.Second

// NewClient makes a client, which does nothing before Begin.
func NewClient(o Options) *Client {
	c := &Client{o: o, kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), want: map[string][]Port{}}
	go c.work()
	return c
}

// Set says which ports of an owner are relayed. Sockets of before may be closed when it
// returns; ended: what is open of them ends too.
func (c *Client) Set(owner string, ports []Port, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.want[owner])+len(ports) == 0 {
		return
	}
	c.want[owner] = ports
	if len(ports) == 0 {
		delete(c.want, owner)
	}
	if c.conn != nil {
		c.changeLocked(owner, ports, ended)
	}
	if len(ports) > 0 && !c.due {
		c.due = true
		time.AfterFunc(behind, c.catchUp)
	}
}

// changeLocked tells what cannot wait: what is gone, and what leads elsewhere.
func (c *Client) changeLocked(owner string, ports []Port, ended bool) {
	told, known := c.told[owner]
	if !known {
		return
	}
	if ended {
		c.tellLocked(message{Op: opGone, Owner: owner, Ended: true})
		delete(c.told, owner)
		return
	}
	left := []Port{}
	for _, p := range told {
		i := slices.IndexFunc(ports, func(q Port) bool { return q.Key == p.Key })
		switch {
		case i < 0:
			p.Socket = -1
			c.tellLocked(message{Op: opGone, Owner: owner, Port: &p})
			continue
		case ports[i] != p:
			p = ports[i]
			c.tellLocked(message{Op: opPort, Owner: owner, Port: &p})
		}
		left = append(left, p)
	}
	c.told[owner] = left
}

// catchUp tells what is new, and starts a relay if there is none.
func (c *Client) catchUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = false
	if c.conn == nil {
		c.wake()
		return
	}
	for owner, ports := range c.want {
		for _, p := range ports {
			if !slices.Contains(c.told[owner], p) {
				c.tellLocked(message{Op: opPort, Owner: owner, Port: &p})
				c.told[owner] = append(c.told[owner], p)
			}
		}
	}
}

// tellLocked writes one message. A relay that does not take it is asked anew.
func (c *Client) tellLocked(m message) {
	if c.conn == nil {
		return
	}
	err := c.conn.SetWriteDeadline(time.Now().Add(writeFor))
	if err == nil {
		err = send(c.conn, m)
	}
	if err != nil {
		c.conn.Close()
		c.conn = nil
		c.wake()
	}
}

func (c *Client) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Begin tells a relay of before what there is now: call it once all that runs was Set.
func (c *Client) Begin() {
	c.mu.Lock()
	c.begun = true
	c.mu.Unlock()
	c.wake()
}

// work keeps a relay that has what is wanted.
func (c *Client) work() {
	defer close(c.done)
	pause := time.Duration(0)
	for {
		select {
		case <-c.stop:
			return
		case <-c.kick:
		}
		c.mu.Lock()
		wanted, there := len(c.want) > 0, c.conn != nil || !c.begun
		c.mu.Unlock()
		if there {
			continue
		}
		began := time.Now()
		err := c.connect(wanted)
		if err != nil && wanted {
			c.o.Log.Error("published ports do not answer at ::1: the relay is started again", "error", err)
		}
		if pause = min(2*pause+10*time.Millisecond, 5*time.Second); err == nil && time.Since(began) < time.Second {
			pause = 10 * time.Millisecond
		}
		if err != nil && wanted {
			time.AfterFunc(pause, c.wake)
		}
	}
}

// connect reaches the relay that runs, or with start one that it starts, and hands it all ports.
func (c *Client) connect(start bool) error {
	conn, err := c.dial()
	if err != nil && !start {
		return nil
	}
	for deadline := time.Now().Add(10 * time.Second); err != nil; conn, err = c.dial() {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve: %w", c.o.Binary+" "+Command, err)
		}
		if err := c.spawn(); err != nil {
			return err
		}
		select {
		case <-c.stop:
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
	c.mu.Lock()
	c.conn, c.told = conn, map[string][]Port{}
	c.tellLocked(message{Op: opSync})
	for owner, ports := range c.want {
		c.told[owner] = slices.Clone(ports)
		for _, p := range ports {
			c.tellLocked(message{Op: opPort, Owner: owner, Port: &p})
		}
	}
	c.tellLocked(message{Op: opSynced})
	lost := c.conn == nil
	c.mu.Unlock()
	if lost {
		return errors.New("it does not take the ports")
	}
	go c.awaitEnd(conn)
	return nil
}

func (c *Client) dial() (*net.UnixConn, error) {
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketPath(c.o.ExecRoot), Net: "unixpacket"})
}

// awaitEnd notices that the relay has ended.
func (c *Client) awaitEnd(conn *net.UnixConn) {
	var b [1]byte
	_, _ = conn.Read(b[:]) // it says nothing, ever
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
		if len(c.want) > 0 {
			c.wake()
		}
	}
}

// spawn starts a relay; one that finds another ends at once.
func (c *Client) spawn() error {
	dir := folder(c.o.ExecRoot)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the relay's folder: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "relay.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the relay's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.o.Binary, Command, "--root", c.o.ExecRoot, "--identity", c.o.Identity)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.Env = append(os.Environ(), c.o.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the relay of ::1: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for range 400 {
		if conn, err := c.dial(); err == nil {
			conn.Close()
			return nil
		}
		select {
		case err := <-exited:
			if err != nil {
				return fmt.Errorf("the relay of ::1 ended: %w; see %s", err, log.Name())
			}
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Close ends the client. The relay goes on.
func (c *Client) Close() {
	close(c.stop)
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.want)
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Stop ends the relay of an engine that stops for good. It follows Close.
func Stop(ctx context.Context, execRoot string) error {
	conn, err := (&Client{o: Options{ExecRoot: execRoot}}).dial()
	if err != nil {
		return nil // none runs
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := send(conn, message{Op: opStop}); err != nil {
		return nil // it ended meanwhile
	}
	var b [1]byte
	_, _ = conn.Read(b[:])
	return ctx.Err()
}
