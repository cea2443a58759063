package registry

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	demotion   = 5 * time.Minute  // how long a failing mirror comes last
	maxConnect = 15 * time.Second // for connecting, and again for TLS
	minSilence = time.Second      // the least that a mirror is waited for
	maxWait    = time.Minute      // the longest Retry-After that is waited for
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
)

// Client speaks to registries for the whole daemon. It is safe for use by
// many goroutines.
type Client struct {
	log   *slog.Logger
	agent string

	mu      sync.Mutex // guards all below; never held while waiting
	now     *generation
	demoted map[string]demoted // by mirror
	schemes map[string]scheme  // of hosts that may be without TLS
}

// generation is what one configuration brings.
type generation struct {
	*settings
	downloads chan struct{} // holds one for each layer under way
	uploads   chan struct{}
	connect   func(ctx context.Context, network, addr string) (net.Conn, error) // of tests; nil dials

	mu         sync.Mutex // guards transports; held while certificates are read
	transports map[string]*http.Transport
}

// demoted is a mirror that failed.
type demoted struct {
	until time.Time
	why   string
}

type scheme struct {
	name  string
	until time.Time
}

// New returns a client; agent is what it calls itself (User-Agent).
func New(c Config, agent string, log *slog.Logger) (*Client, error) {
	if log == nil {
		log = slog.Default()
	}
	cl := &Client{log: log, agent: agent, demoted: make(map[string]demoted), schemes: make(map[string]scheme)}
	return cl, cl.Reload(c)
}

// Reload takes a new configuration. Pulls under way go on with theirs.
func (c *Client) Reload(cfg Config) error {
	set, err := parse(cfg)
	if err != nil {
		return err
	}
	if err := CheckHosts(set.certDirs); err != nil {
		// One registry's file is no reason to serve nobody; who asks that
		// registry is told.
		c.log.Error("a registry cannot be asked", "error", err)
	}
	g := &generation{settings: set, downloads: make(chan struct{}, set.maxDownloads), uploads: make(chan struct{}, set.maxUploads)}
	c.mu.Lock()
	old := c.now
	if old != nil && cap(old.downloads) == set.maxDownloads {
		g.downloads = old.downloads // what is under way counts
	}
	if old != nil && cap(old.uploads) == set.maxUploads {
		g.uploads = old.uploads
	}
	c.now = g
	clear(c.demoted)
	clear(c.schemes)
	c.mu.Unlock()
	if old != nil {
		old.close()
	}
	return nil
}

// Close drops idle connections.
func (c *Client) Close() { c.current().close() }

func (g *generation) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.transports {
		t.CloseIdleConnections()
	}
}

func (c *Client) current() *generation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Slot waits until the daemon may download one more layer; waiting is called
// if that is not at once.
func (r *Repository) Slot(ctx context.Context, waiting func()) (release func(), err error) {
	return slot(ctx, r.gen.downloads, waiting)
}

// UploadSlot is Slot for a layer that is pushed.
func (r *Repository) UploadSlot(ctx context.Context, waiting func()) (release func(), err error) {
	return slot(ctx, r.gen.uploads, waiting)
}

func slot(ctx context.Context, slots chan struct{}, waiting func()) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	default:
		waiting()
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Again says whether to try again after n failed attempts, and how long to
// wait before.
func (r *Repository) Again(err error, n int) (time.Duration, bool) {
	var f *Failure
	if n >= r.gen.maxAttempts || !errors.As(err, &f) || !f.again() || f.RetryAfter > maxWait {
		return 0, false
	}
	if f.RetryAfter > 0 {
		return f.RetryAfter, true
	}
	pause := min(firstPause<<min(n-1, 10), maxPause)
	return pause + rand.N(pause/4+1), true
}

func (c *Client) demote(base string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.demoted[base] = demoted{until: time.Now().Add(demotion), why: why.Error()}
}

// demotedMirror says until when a mirror comes last, and why; the time is zero if it
// does not.
func (c *Client) demotedMirror(base string) demoted {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.demoted[base]; time.Now().Before(d.until) {
		return d
	}
	delete(c.demoted, base)
	return demoted{}
}

func (c *Client) isDemoted(base string) bool { return !c.demotedMirror(base).until.IsZero() }

// schemeOf is the scheme that worked for a host lately.
func (c *Client) schemeOf(host string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemes[host]; time.Now().Before(s.until) {
		return s.name
	}
	return ""
}

func (c *Client) setScheme(host, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name == "" {
		delete(c.schemes, host)
		return
	}
	c.schemes[host] = scheme{name: name, until: time.Now().Add(demotion)}
}

// pause waits unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
