package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
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
	demoted map[string]time.Time // mirror -> until when
	schemes map[string]scheme    // of hosts that may be without TLS
}

// generation is what one configuration brings.
type generation struct {
	*settings
	strict, lax *http.Transport // lax does not verify certificates
	downloads   chan struct{}   // holds one for each layer under way
	uploads     chan struct{}

	mu  sync.Mutex // guards own; held while certificates are read
	own map[string]*http.Transport
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
	cl := &Client{log: log, agent: agent, demoted: make(map[string]time.Time), schemes: make(map[string]scheme)}
	return cl, cl.Reload(c)
}

// Reload takes a new configuration. Pulls under way go on with theirs.
func (c *Client) Reload(cfg Config) error {
	set, err := parse(cfg)
	if err != nil {
		return err
	}
	g := &generation{settings: set, strict: newTransport(set, false), lax: newTransport(set, true),
		downloads: make(chan struct{}, set.maxDownloads), uploads: make(chan struct{}, set.maxUploads)}
	c.mu.Lock()
	old := c.now
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
	g.strict.CloseIdleConnections()
	g.lax.CloseIdleConnections()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.own {
		t.CloseIdleConnections()
	}
}

func (c *Client) current() *generation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// newTransport has a limit for each wait. It does not ask for compression: a
// blob is wanted byte by byte as its digest knows it.
func newTransport(set *settings, lax bool) *http.Transport {
	connect := min(set.patience, maxConnect)
	dialer := &net.Dialer{Timeout: connect, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    connect,
		ResponseHeaderTimeout:  set.patience,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: lax}, //nolint:gosec // lax is for registries the user called insecure
	}
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

func (c *Client) demote(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.demoted[base] = time.Now().Add(demotion)
}

func (c *Client) isDemoted(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.demoted[base])
}

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

// errSilent ends a body that brings nothing for too long.
var errSilent = errors.New("nothing arrived for too long")

// guarded is a body whose reads end if nothing arrives. The time runs only
// within Read: a slow reader is no fault of the registry.
type guarded struct {
	rc       io.ReadCloser
	patience time.Duration
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	ctx      context.Context
}

func guard(ctx context.Context, cancel context.CancelCauseFunc, rc io.ReadCloser, patience time.Duration) *guarded {
	g := &guarded{rc: rc, patience: patience, cancel: cancel, ctx: ctx}
	g.timer = time.AfterFunc(patience, func() { cancel(errSilent) })
	g.timer.Stop()
	return g
}

func (g *guarded) Read(p []byte) (int, error) {
	g.timer.Reset(g.patience)
	n, err := g.rc.Read(p)
	g.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(g.ctx), errSilent) {
		err = fmt.Errorf("%w (%s)", errSilent, g.patience)
	}
	return n, err
}

func (g *guarded) Close() error {
	g.timer.Stop()
	err := g.rc.Close()
	g.cancel(nil)
	return err
}
