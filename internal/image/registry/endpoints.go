package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
)

// endpoint is one host that may have a repository.
type endpoint struct {
	c            *Client
	scheme, host string
	root         string // the path of the API: /v2, or what comes before it, too
	mirror       bool   // it is asked in the registry's stead
	probe        bool   // it may speak plain HTTP
	can          capability
	tls          hostEntry // what a hosts.toml says of certificates and times
	ns           string    // the registry that a mirror is asked for, if it is another host
	from         string    // where it is configured
	auth         docker.Authorizer
	bearer       string // a token the user gave
	user         string // who asks; "" is nobody
	trusted      bool   // the user's credentials are for it
	lax          bool   // its certificate is not verified
	headers      http.Header
}

// base names the host in messages and in the list of failing mirrors.
func (e *endpoint) base() string {
	prefix := strings.TrimSuffix(e.root, "/v2")
	if !e.probe {
		return e.scheme + "://" + e.host + prefix
	}
	if known := e.c.schemeOf(e.host); known != "" {
		return known + "://" + e.host + prefix
	}
	return e.host + prefix
}

// hurried says whether the host must be fast, as others are left to ask.
func (e *endpoint) hurried() bool { return e.mirror && !e.c.isDemoted(e.base()) }

// silence is how long the host may be silent.
func (e *endpoint) silence(set *settings) time.Duration {
	if e.hurried() {
		return max(set.patience/2, min(set.patience, minSilence))
	}
	return set.patience
}

// reach is how the endpoint is spoken to.
func (e *endpoint) reach(set *settings) reach {
	r := reach{host: e.host, lax: e.lax || set.insecure(e.host), dial: min(set.patience, maxConnect), authorities: e.tls.authorities, client: e.tls.client}
	if e.mirror {
		r.dial = max(set.patience/6, minSilence)
	}
	if e.tls.dialTimeout > 0 {
		r.dial = e.tls.dialTimeout
	}
	if e.tls.skipVerify != nil {
		r.lax = *e.tls.skipVerify
	}
	return r
}

// endpoints are the hosts that may have a registry's repositories, in the
// order of the configuration, the registry itself last.
func (g *generation) endpoints(c *Client, domain string) ([]*endpoint, error) {
	dir, err := hostDir(g.certDirs, domain)
	if err != nil {
		return nil, err
	}
	var file *hostsFile
	if dir != "" {
		if file, err = readHosts(dir); err != nil {
			return nil, err
		}
	}
	origin := &endpoint{c: c, scheme: "https", host: g.origin(domain), root: "/v2", can: canAll, from: "the registry itself"}
	origin.probe = g.insecure(origin.host)
	var list []*endpoint
	if file != nil {
		for _, h := range file.hosts {
			list = append(list, g.configured(c, h, domain, file.path))
		}
		if e := file.server; e.host != "" {
			origin = g.configured(c, e, domain, file.path)
			origin.mirror = false
		} else {
			origin.tls, origin.headers = e, e.header
		}
	}
	if len(list) == 0 { // a hosts.toml that names hosts counts more
		for _, m := range g.mirrors[domain] {
			ep := &endpoint{c: c, scheme: m.scheme, host: m.host, root: m.path + "/v2", mirror: true, can: canPull | canResolve | canRefer, from: "registry-mirrors"}
			if m.scheme == "" {
				ep.scheme, ep.probe = "https", g.insecure(m.host)
			}
			ep.ns = g.namespace(domain, m.host)
			list = append(list, ep)
		}
	}
	return append(list, origin), nil
}

// configured is a host of a hosts.toml.
func (g *generation) configured(c *Client, e hostEntry, domain, path string) *endpoint {
	ep := &endpoint{c: c, scheme: e.scheme, host: e.host, root: e.root, mirror: true, can: e.can, tls: e, headers: e.header, from: path}
	ep.ns = g.namespace(domain, e.host)
	// As with containerd: certificates for a host of which the scheme says
	// that it needs none have it asked with them first.
	if _, port, _ := net.SplitHostPort(e.host); e.scheme == "http" && port != "80" && (e.skipVerify != nil || e.authorities != nil || e.client != nil) {
		ep.probe = true
	}
	return ep
}

// origin is the host of a registry.
func (g *generation) origin(domain string) string {
	if domain == hubName {
		return g.hub
	}
	return domain
}

// namespace is what a host that stands in for a registry is told of it
// (containerd's docs/hosts.md).
func (g *generation) namespace(domain, host string) string {
	if strings.EqualFold(host, g.origin(domain)) {
		return ""
	}
	return domain
}

// RepositoryOptions say who asks.
type RepositoryOptions struct {
	Auth *registry.AuthConfig // nil: nobody
	// Headers of the client's that begin with X-Meta- go to the registry.
	Headers map[string][]string
	// Tell receives lines about mirrors, for the user; may be nil.
	Tell func(line string)
	// Insecure lets the registry itself be spoken to as if it were one of the
	// configuration's insecure ones.
	Insecure bool
}

// Repository is one repository as one pull sees it.
type Repository struct {
	c      *Client
	gen    *generation
	name   reference.Named
	path   string // "" asks a registry for what is in no repository
	tell   func(string)
	all    []*endpoint // in the order of the configuration, the registry last
	broken error       // of the configuration: nothing can be asked

	mu   sync.Mutex // guards all below
	bad  map[*endpoint]error
	down bool // the registry itself cannot be reached: it is asked last
	told map[string]struct{}
}

// Repository prepares to ask for a repository. It does not ask yet.
func (c *Client) Repository(name reference.Named, o RepositoryOptions) *Repository {
	r := c.registry(reference.Domain(name), o)
	r.name, r.path = reference.TrimNamed(name), reference.Path(name)
	return r
}

// registry prepares to ask a registry, known by its name in references.
func (c *Client) registry(domain string, o RepositoryOptions) *Repository {
	r := &Repository{c: c, gen: c.current(), tell: o.Tell, bad: make(map[*endpoint]error), told: make(map[string]struct{})}
	if r.tell == nil {
		r.tell = func(string) {}
	}
	r.all, r.broken = r.gen.endpoints(c, domain)
	origin := r.gen.origin(domain)
	audience := r.gen.audience(o.Auth, origin)
	reached := o.Auth == nil
	for _, ep := range r.all {
		if o.Insecure && !ep.mirror {
			ep.probe, ep.lax = true, true
		}
		mine := o.Auth != nil && sameHost(ep.host, audience) && (!ep.mirror || o.Auth.ServerAddress != "")
		var auth *registry.AuthConfig
		if mine {
			auth, ep.bearer, ep.trusted, reached = o.Auth, o.Auth.RegistryToken, true, true
			ep.user = userName(o.Auth)
		}
		ep.auth = r.authorizer(ep, auth)
		if !ep.mirror && sameHost(ep.host, origin) {
			ep.headers = ep.headers.Clone()
			for k, v := range o.Headers {
				if k = http.CanonicalHeaderKey(k); strings.HasPrefix(k, "X-Meta-") {
					if ep.headers == nil {
						ep.headers = make(http.Header)
					}
					ep.headers[k] = v
				}
			}
		}
	}
	if !reached && r.broken == nil {
		c.log.Info("credentials are not sent: they are for another host", "registry", domain, "for", audience)
	}
	return r
}

// audience is the host that credentials are for.
func (g *generation) audience(auth *registry.AuthConfig, origin string) string {
	if auth == nil || auth.ServerAddress == "" {
		return origin
	}
	return g.origin(ServerName(auth.ServerAddress))
}

// ServerName is a registry's name in references, of an address as clients
// write it in credentials: https://index.docker.io/v1/ is docker.io.
func ServerName(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	addr, _, _ = strings.Cut(addr, "/")
	switch strings.ToLower(addr) {
	case "", hubName, "index.docker.io", "registry.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com":
		return hubName
	}
	return addr
}

func sameHost(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, ":443"), strings.TrimSuffix(b, ":443"))
}

// credentials reads what a client sends: user and password, also as the one
// field auth, or an identity token, which goes without a user.
func credentials(a *registry.AuthConfig) (user, secret string) {
	switch {
	case a == nil:
		return "", ""
	case a.IdentityToken != "":
		return "", a.IdentityToken
	case a.Username == "" && a.Auth != "":
		if b, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			user, secret, _ = strings.Cut(string(b), ":")
			return user, strings.TrimRight(secret, "\x00")
		}
	}
	return a.Username, a.Password
}

// userName is for people.
func userName(a *registry.AuthConfig) string {
	user, _ := credentials(a)
	switch {
	case a.Username != "":
		return a.Username
	case user != "":
		return user
	case a.IdentityToken != "" || a.RegistryToken != "":
		return "the owner of a token"
	}
	return ""
}

// order is whom to ask for something: see the package's comment.
func (r *Repository) order(need capability) []*endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first, last, down []*endpoint
	for _, ep := range r.all {
		switch {
		case r.bad[ep] != nil || ep.can&need == 0:
		case !ep.mirror && r.down:
			down = append(down, ep)
		case ep.mirror && r.c.isDemoted(ep.base()):
			last = append(last, ep)
		default:
			first = append(first, ep)
		}
	}
	return slices.Concat(first, last, down)
}

// pusher is the host that takes what is pushed.
func (r *Repository) pusher() (*endpoint, error) {
	if r.broken != nil {
		return nil, r.broken
	}
	for _, ep := range r.all {
		if ep.can&canPush != 0 {
			return ep, nil
		}
	}
	return nil, incapable(r, canPush)
}

// incapable is why nobody can be asked.
func incapable(r *Repository, need capability) error {
	last := r.all[len(r.all)-1]
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"%s allows no host to be asked for this: add %q to the capabilities of one", last.from, strings.Join(need.names(), " and ")))
}

// each asks the hosts that can do what is needed one after another until one
// has what is wanted.
func (r *Repository) each(ctx context.Context, need capability, ask func(ep *endpoint) error) error {
	if r.broken != nil {
		return r.broken
	}
	var origin error
	var passed []error // of mirrors, in the order they were asked
	list := r.order(need)
	for _, ep := range list {
		err := ask(ep)
		if err == nil {
			if ep.mirror {
				r.once(ep.base(), "Mirror "+ep.base()+" serves this image")
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var f *Failure
		failing := errors.As(err, &f) && f.failing()
		if f != nil && f.lied {
			r.mu.Lock()
			r.bad[ep] = err
			r.mu.Unlock()
		}
		if ep.mirror {
			r.passOver(ep, err, failing)
			passed = append(passed, err)
			continue
		}
		origin = err
		if !failing {
			break
		}
		r.mu.Lock()
		r.down = f.Status == 0
		r.mu.Unlock()
	}
	return r.summary(need, origin, passed, len(list) == 0)
}

// summary makes one error of what all hosts said.
func (r *Repository) summary(need capability, origin error, passed []error, none bool) error {
	if origin == nil {
		r.mu.Lock()
		origin = r.bad[r.all[len(r.all)-1]]
		for _, ep := range r.all {
			if none && r.bad[ep] != nil && origin == nil {
				origin = r.bad[ep]
			}
		}
		r.mu.Unlock()
	}
	switch {
	case origin == nil && len(passed) > 0:
		origin, passed = passed[len(passed)-1], passed[:len(passed)-1]
	case origin == nil:
		return incapable(r, need)
	}
	var f *Failure
	if !errors.As(origin, &f) || !f.failing() {
		return origin
	}
	told := *f
	if len(passed) > 0 {
		words := make([]string, len(passed))
		for i, err := range passed {
			words[i] = mirrorWords(err)
		}
		told.also = "; mirrors did not help: " + strings.Join(words, "; ")
	}
	return &told
}

// mirrorWords are a mirror's error with its name.
func mirrorWords(err error) string {
	var f *Failure
	switch {
	case !errors.As(err, &f) || strings.Contains(err.Error(), f.Host) && f.Status == 0:
		return err.Error()
	case f.Status == 0:
		return f.Host + ": " + err.Error()
	case f.Code == "" && f.Message == "":
		return f.short()
	}
	return f.short() + " (" + f.words() + ")"
}

func (r *Repository) passOver(ep *endpoint, err error, failing bool) {
	if failing {
		r.c.demote(ep.base(), err)
	}
	if errdefs.IsNotFound(err) {
		r.c.log.Debug("registry mirror does not have it", "mirror", ep.base(), "repository", label(r), "error", err)
		r.once(ep.base()+" failed", "Mirror "+ep.base()+" is passed over: it does not have this image")
		return
	}
	r.c.log.Warn("registry mirror passed over", "mirror", ep.base(), "repository", label(r), "error", err)
	r.once(ep.base()+" failed", "Mirror "+ep.base()+" is passed over: "+err.Error())
}

// label names what is asked for in the log.
func label(r *Repository) string {
	if r.name == nil {
		return ""
	}
	return r.name.Name()
}

// once tells the user a line, unless this pull told one of that key before.
func (r *Repository) once(key, line string) {
	r.mu.Lock()
	_, said := r.told[key]
	r.told[key] = struct{}{}
	r.mu.Unlock()
	if !said {
		r.tell(line)
	}
}
