package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hezi/internal/version"
)

// Backend is everything that the handlers call.
type Backend struct {
	Containers Containers
	Views      ContainerViews
	Streams    Streams
	Limits     Limits
	Execs      Execs
	Files      Files
	Commits    Commits
	Snapshots  Snapshots
	Mounts     Mounts
	Images     Images
	Upkeep     Upkeep
	Disk       Disk
	Registries Registries
	Transfers  Transfers
	Lists      Lists
	Volumes    Volumes
	// VolumeStates and VolumeTrash are there where Volumes is.
	VolumeStates VolumeStates
	VolumeTrash  VolumeTrash
	Networks     Networks
	Attachments  Attachments
	System       System
}

// Server is the http.Handler of the whole API. It may serve before the engine
// is ready: requests wait for Ready.
type Server struct {
	log     *slog.Logger
	debug   func() bool
	explain func(error) error
	ready   chan struct{}
	ending  chan struct{}
	endOnce sync.Once
	backend Backend
	router  router
}

// NewServer makes a server whose requests wait for Ready. debug says whether
// the daemon runs in debug mode now; only then is /debug/pprof served. explain adds
// to an error what a user can do about it, or nothing.
func NewServer(log *slog.Logger, debug func() bool, explain func(error) error) *Server {
	return &Server{log: log, debug: debug, explain: explain, ready: make(chan struct{}), ending: make(chan struct{}), router: newRouter(routes())}
}

// Ready lets the waiting requests through. It is called once.
func (s *Server) Ready(b Backend) {
	s.backend = b
	close(s.ready)
}

// EndStreams ends the answers that would last for ever, so that a stopping
// daemon need not wait for them.
func (s *Server) EndStreams() { s.endOnce.Do(func() { close(s.ending) }) }

// streaming is the request's context for an answer without an end: it ends
// with the client and with EndStreams.
func (c *call) streaming() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.r.Context())
	go func() {
		select {
		case <-c.ending:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// call is one request on its way through a handler.
type call struct {
	*Server
	w       http.ResponseWriter
	r       *http.Request
	version apiVersion
	arg     string // the path's variable: a name or an id
}

// ctx of the request: it ends when the client goes away.
func (c *call) ctx() context.Context { return c.r.Context() }

// lasting is the request's context without its cancellation: what was begun
// for a client that has gone is still finished.
func (c *call) lasting() context.Context { return context.WithoutCancel(c.r.Context()) }

// ServeHTTP serves one request of any API version.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	rec := &recorder{ResponseWriter: w}
	setHeaders(rec.Header())
	s.serve(rec, r)
	if s.log.Enabled(r.Context(), slog.LevelDebug) {
		if rec.status == 0 {
			rec.status = http.StatusOK // net/http says so for an answer without a body
		}
		s.log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", rec.status, "took", time.Since(started).Round(time.Microsecond))
	}
}

func (s *Server) serve(w *recorder, r *http.Request) {
	c := &call{Server: s, w: w, r: r, version: newest}
	defer c.recover()
	path, v, err := splitVersion(r.URL.Path)
	if err != nil {
		c.fail(err)
		return
	}
	c.version = v
	rt, arg := s.router.find(r.Method, path)
	if rt == nil {
		c.fail(errPageNotFound)
		return
	}
	if err := rt.supports(v); err != nil {
		c.fail(err)
		return
	}
	c.arg = arg
	if !rt.early {
		select {
		case <-s.ready:
		case <-s.ending:
			c.fail(errdefs.ErrUnavailable.WithMessage("hezid is stopping"))
			return
		case <-r.Context().Done():
			return
		}
		if err := rt.open(&s.backend); err != nil {
			c.fail(err)
			return
		}
	}
	if err := rt.handle(c); err != nil {
		c.fail(err)
	}
}

// recover answers a handler's panic with 500: one bad request must not take
// the engine down.
func (c *call) recover() {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	c.log.Error("a request's handler panicked", "method", c.r.Method, "path", c.r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	c.fail(fmt.Errorf("the engine failed while it served %s %s (%v): this is a defect of hezid, its log has the details", c.r.Method, c.r.URL.Path, p))
}

// fail answers with an error unless the answer has begun.
func (c *call) fail(err error) {
	rec, ok := c.w.(*recorder)
	if ok && (rec.status != 0 || rec.hijacked) {
		c.log.Debug("a request failed after its answer began", "path", c.r.URL.Path, "error", err)
		return
	}
	err = c.explain(err)
	writeError(c.w, err)
	if statusOf(err) == http.StatusInternalServerError { // the others are answers, not failures
		c.log.Error("request failed", "method", c.r.Method, "path", c.r.URL.Path, "error", err)
	}
}

func setHeaders(h http.Header) {
	h.Set("Api-Version", version.API)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", "Hezi/"+version.Version+" (linux)")
}

// recorder remembers what was answered. http.ResponseController reaches the
// real writer by Unwrap.
type recorder struct {
	http.ResponseWriter
	status   int
	hijacked bool
	before   func() // called once, before the headers are written; nil: nothing is
}

func (r *recorder) WriteHeader(code int) {
	if r.status == 0 {
		r.status = code
		if r.before != nil {
			r.before()
		}
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

type connKey struct{}

// ConnContext keeps the connection's kind for the handlers; the daemon gives
// it to http.Server.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// local says whether the client's connection can be handed over as a descriptor.
func (c *call) local() bool {
	_, ok := c.ctx().Value(connKey{}).(*net.UnixConn)
	return ok
}
