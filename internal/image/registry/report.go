package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
)

// Report is what each host says that a registry's images may come from.
type Report struct {
	Registry  string // as references name it
	Image     string `json:",omitempty"` // that was asked for; "" asked for no image
	Endpoints []EndpointReport
}

// EndpointReport is what one host says. Hosts stand in the order in which they
// are asked now.
type EndpointReport struct {
	URL          string
	Mirror       bool
	Source       string // where it is configured: registry-mirrors, or a file
	Capabilities []string
	AskedLast    string `json:",omitempty"` // why a mirror is asked last for now, and until when

	Answer string // a few words: "ok", "404 Not Found", "connection refused"
	Serves bool
	First  bool   // of those that serve
	Detail string `json:",omitempty"` // a sentence: what is wrong, and what to do
	Digest string `json:",omitempty"` // what the image's tag names there

	Login       string   `json:",omitempty"` // what it asks for: "Bearer https://auth.example/token", "Basic"
	User        string   `json:",omitempty"` // who asked; "" is nobody
	Address     string   `json:",omitempty"` // that answered, with port
	Proxy       string   `json:",omitempty"` // through which it was asked, without its password
	Authorities []string `json:",omitempty"` // files beside the system's that are trusted
	ClientCerts []string `json:",omitempty"` // files that it is shown
	Verified    bool     // its certificate is
	Certificate string   `json:",omitempty"` // whose it is, and until when
	RateLimit   string   `json:",omitempty"`
	Took        time.Duration
}

// hubProbe is the image whose manifest Docker Hub answers with its limits; to
// ask for it does not count (docs.docker.com, "Docker Hub pull usage and limits").
const hubProbe = "docker.io/ratelimitpreview/test:latest"

// Test asks every host of a registry. name is the registry's, or an image's:
// with a slash; then it asks whether they have the image. Nothing is stored,
// and no mirror is demoted by it.
func (c *Client) Test(ctx context.Context, name string, a *registry.AuthConfig) (Report, error) {
	out := Report{Registry: hubName}
	var image reference.Named
	var err error
	switch {
	case strings.Contains(name, "/") && !strings.Contains(name, "://"):
		if image, err = reference.ParseNormalizedNamed(name); err != nil {
			return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%v: %q", err, name))
		}
		image = reference.TagNameOnly(image)
		out.Registry, out.Image = reference.Domain(image), reference.FamiliarString(image)
	case name != "":
		if out.Registry, err = registryName(ServerName(name)); err != nil {
			return out, err
		}
	}
	r := c.registry(out.Registry, RepositoryOptions{Auth: a})
	if r.broken != nil {
		return out, r.broken
	}
	list := r.order(canAll)
	out.Endpoints = make([]EndpointReport, len(list))
	var wg sync.WaitGroup
	for i, ep := range list {
		wg.Go(func() { out.Endpoints[i] = c.examine(ctx, r.gen, ep, image, out.Registry) })
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return out, err
	}
	for i := range out.Endpoints {
		if out.Endpoints[i].Serves {
			out.Endpoints[i].First = true
			break
		}
	}
	return out, nil
}

// examination is one host asked.
type examination struct {
	EndpointReport
	r  *Repository
	ep *endpoint
}

func (c *Client) examine(ctx context.Context, g *generation, ep *endpoint, image reference.Named, domain string) EndpointReport {
	x := &examination{ep: ep, EndpointReport: EndpointReport{Mirror: ep.mirror, Source: ep.from, Capabilities: ep.can.names(), User: ep.user}}
	x.r = &Repository{c: c, gen: g, tell: func(string) {}, all: []*endpoint{ep}, bad: make(map[*endpoint]error), told: make(map[string]struct{})}
	if d := c.demotedMirror(ep.base()); !d.until.IsZero() {
		x.AskedLast = fmt.Sprintf("until %s, since it failed: %s", d.until.Format(time.DateTime), d.why)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { x.Address = i.Conn.RemoteAddr().String() }})
	began := time.Now()
	err := x.run(ctx, image, domain == hubName)
	x.Took = time.Since(began)
	x.URL = ep.base()
	x.files(g)
	if err == nil {
		return x.EndpointReport
	}
	x.Serves = false
	x.Detail = err.Error()
	var f *Failure
	if errors.As(err, &f) {
		x.judge(f, domain)
	}
	return x.EndpointReport
}

// run asks the API's root, logs in if that is asked for, and asks for the image.
func (x *examination) run(ctx context.Context, image reference.Named, hub bool) error {
	resp, err := x.root(ctx)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		if resp, err = x.loggedIn(ctx, resp); err != nil {
			return err
		}
	}
	if resp.StatusCode >= 300 && (image == nil || resp.StatusCode == http.StatusUnauthorized) {
		return refused(x.ep.base(), resp)
	}
	if isPage(resp.Header, nil) {
		return webPage(x.ep.base(), resp)
	}
	resp.Body.Close()
	x.Answer, x.Serves = "ok", x.ep.can&canPull != 0
	if image == nil && hub && !x.ep.mirror && strings.HasSuffix(x.ep.host, ".docker.io") {
		if image, err = reference.ParseNormalizedNamed(hubProbe); err != nil {
			return err
		}
		return x.limits(ctx, image)
	}
	if image == nil {
		return nil
	}
	return x.has(ctx, image)
}

func (x *examination) root(ctx context.Context) (*http.Response, error) {
	resp, err := x.r.send(ctx, x.ep, request{method: http.MethodGet, path: x.ep.root + "/"})
	if err != nil {
		return nil, x.r.failure(x.ep, err)
	}
	x.seen(resp)
	return resp, nil
}

// seen notes what an answer shows beside what it says.
func (x *examination) seen(resp *http.Response) {
	if l := rateLimit(resp.Header, time.Now()); l != nil {
		x.RateLimit = l.String()
	}
	if resp.TLS != nil && resp.Request.URL.Host == x.ep.host {
		x.certificate(resp.TLS)
	}
}

func (x *examination) certificate(s *tls.ConnectionState) {
	if len(s.PeerCertificates) == 0 {
		return
	}
	c := s.PeerCertificates[0]
	of := c.Subject.CommonName
	if of == "" && len(c.DNSNames) > 0 {
		of = c.DNSNames[0]
	}
	x.Verified = len(s.VerifiedChains) > 0
	x.Certificate = fmt.Sprintf("%s until %s, issued by %s", printable(of), c.NotAfter.UTC().Format(time.DateOnly), printable(issuer(c)))
}

func issuer(c *x509.Certificate) string {
	if len(c.Issuer.Organization) > 0 && c.Issuer.CommonName != "" {
		return c.Issuer.Organization[0] + " " + c.Issuer.CommonName
	}
	return c.Issuer.CommonName
}

// loggedIn answers a challenge. It closes the answer that has it.
func (x *examination) loggedIn(ctx context.Context, resp *http.Response) (*http.Response, error) {
	for _, ch := range auth.ParseAuthHeader(resp.Header) {
		switch ch.Scheme {
		case auth.BearerAuth:
			x.Login = "Bearer " + printable(ch.Parameters["realm"])
		case auth.BasicAuth:
			x.Login = "Basic"
		default:
			continue
		}
		break
	}
	f := refused(x.ep.base(), resp)
	if x.ep.bearer != "" || x.ep.auth.AddResponses(ctx, []*http.Response{resp}) != nil {
		return nil, f
	}
	return x.root(ctx)
}

// has asks for an image's manifest.
func (x *examination) has(ctx context.Context, image reference.Named) error {
	x.r.name, x.r.path = reference.TrimNamed(image), reference.Path(image)
	object, want := objectOf(image)
	d, err := x.r.head(ctx, x.ep, object, want)
	if err != nil {
		x.Serves = false
		return x.r.explain(image, err)
	}
	x.Digest = d.Digest.String()
	return nil
}

// limits asks Docker Hub how often images may be pulled.
func (x *examination) limits(ctx context.Context, image reference.Named) error {
	x.r.name, x.r.path = reference.TrimNamed(image), reference.Path(image)
	object, _ := objectOf(image)
	resp, err := x.r.ask(ctx, x.ep, request{method: http.MethodHead, rest: "manifests/" + object, header: accept()})
	if err != nil {
		var f *Failure
		if errors.As(err, &f) && f.Status == http.StatusTooManyRequests {
			return x.r.explain(image, err)
		}
		return nil // that it serves was seen
	}
	x.seen(resp)
	return resp.Body.Close()
}

// judge puts a failure into a few words.
func (x *examination) judge(f *Failure, domain string) {
	if f.Limit != nil {
		x.RateLimit = f.Limit.String()
	}
	switch {
	case f.brief != "":
		x.Answer = f.brief
	case f.Status == http.StatusTooManyRequests && f.RetryAfter > 0:
		x.Answer = fmt.Sprintf("429 Too Many Requests for %s", f.RetryAfter.Round(time.Second))
	case f.Status != 0:
		x.Answer = fmt.Sprintf("%d %s", f.Status, http.StatusText(f.Status))
		if f.page {
			x.Answer += ", a web page"
		}
	default:
		x.Answer = "failed"
	}
	switch {
	case f.Status != http.StatusUnauthorized || x.ep.mirror:
	case x.User == "":
		x.Detail += ": nobody is logged in: hezi login " + domain
	default:
		x.Detail += fmt.Sprintf(": the credentials of %s are not taken: hezi login %s", x.User, domain)
	}
}

// files notes which certificates and which proxy are used.
func (x *examination) files(g *generation) {
	if c, err := g.certificates(x.ep.reach(g.settings)); err == nil {
		x.Authorities = c.authorities
		for _, p := range c.client {
			x.ClientCerts = append(x.ClientCerts, p[0])
		}
	}
	scheme := x.ep.scheme
	if known := x.r.c.schemeOf(x.ep.host); x.ep.probe && known != "" {
		scheme = known
	}
	x.Proxy = proxyOf(g.settings, &url.URL{Scheme: scheme, Host: x.ep.host})
}
