package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

// clientID is what token servers know Docker's engines by; they give identity
// tokens to a client that names itself.
const clientID = "docker"

// Login asks a registry whether it takes credentials. They are not kept: the
// client keeps them, or the identity token that it is given in their stead.
func (c *Client) Login(ctx context.Context, a registry.AuthConfig) (registry.AuthResponse, error) {
	r, ep, err := c.itself(ServerName(a.ServerAddress), nil)
	if err != nil {
		return registry.AuthResponse{}, err
	}
	l := &login{r: r, ep: ep, auth: a}
	err = l.run(ctx)
	var f *Failure
	switch {
	case errors.As(err, &f) && (f.Status == http.StatusUnauthorized || f.Status == http.StatusForbidden):
		return registry.AuthResponse{}, l.wrong(f)
	case err != nil:
		return registry.AuthResponse{}, err
	}
	return registry.AuthResponse{Status: "Login Succeeded", IdentityToken: l.auth.IdentityToken}, nil
}

// itself prepares to ask a registry, and nobody in its stead.
func (c *Client) itself(domain string, auth *registry.AuthConfig) (*Repository, *endpoint, error) {
	domain, err := registryName(domain)
	if err != nil {
		return nil, nil, err
	}
	r := c.registry(domain, RepositoryOptions{Auth: auth})
	if r.broken != nil {
		return nil, nil, r.broken
	}
	ep := r.all[len(r.all)-1]
	if origin := r.gen.origin(domain); !sameHost(ep.host, origin) {
		ep = &endpoint{c: c, scheme: "https", host: origin, root: "/v2", probe: r.gen.insecure(origin), can: canAll, from: "the registry itself"}
		ep.auth = r.authorizer(ep, auth)
	}
	return r, ep, nil
}

// login is one login at one registry.
type login struct {
	r    *Repository
	ep   *endpoint
	auth registry.AuthConfig
}

// run asks the API's root, which answers to who is logged in: without
// credentials first, so that it says which it wants.
func (l *login) run(ctx context.Context) error {
	resp, err := l.root(ctx, "")
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return l.outcome(resp)
	}
	challenges := auth.ParseAuthHeader(resp.Header)
	resp.Body.Close()
	for _, ch := range challenges { // tokens come first
		var header string
		switch ch.Scheme {
		case auth.BearerAuth:
			token, err := l.token(ctx, ch)
			if err != nil {
				return l.r.failure(l.ep, err)
			}
			header = "Bearer " + token
		case auth.BasicAuth:
			user, secret := credentials(&l.auth)
			if user == "" {
				continue // an identity token is no password
			}
			var req http.Request
			req.Header = make(http.Header)
			req.SetBasicAuth(user, secret)
			header = req.Header.Get("Authorization")
		default:
			continue
		}
		resp, err := l.root(ctx, header)
		if err != nil {
			return err
		}
		return l.outcome(resp)
	}
	return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
		"the registry %s asks for a login in a way that cannot be answered (%s): basic and bearer are understood", l.ep.base(), schemes(resp.Header)))
}

// schemes names what a registry asks for.
func schemes(h http.Header) string {
	var names []string
	for _, v := range h.Values("WWW-Authenticate") {
		name, _, _ := strings.Cut(printable(v), " ")
		names = append(names, name)
	}
	if names == nil {
		return "no WWW-Authenticate"
	}
	return "WWW-Authenticate: " + strings.Join(names, ", ")
}

// root asks GET /v2/ with an Authorization header, if there is one.
func (l *login) root(ctx context.Context, authorization string) (*http.Response, error) {
	q := request{method: http.MethodGet, path: l.ep.root + "/"}
	if authorization != "" {
		q.header = http.Header{"Authorization": {authorization}}
	}
	resp, err := l.r.send(ctx, l.ep, q)
	if err != nil {
		return nil, l.r.failure(l.ep, err)
	}
	return resp, nil
}

func (l *login) outcome(resp *http.Response) error {
	host := l.ep.base()
	switch {
	case isPage(resp.Header, nil) && resp.StatusCode < 400:
		return webPage(host, resp)
	case resp.StatusCode == http.StatusOK:
		resp.Body.Close()
		return nil
	}
	f := refused(host, resp)
	if f.Status != http.StatusUnauthorized && f.Status != http.StatusForbidden {
		f.text = fmt.Sprintf("login attempt to %s/v2/ failed with status: %d %s", host, f.Status, http.StatusText(f.Status))
		if f.page || f.Message != "" {
			f.text += ": " + f.words()
		}
	}
	return f
}

// token gets a token, as Docker does: for a password by GET, which may bring an
// identity token, too; for an identity token by POST.
func (l *login) token(ctx context.Context, ch auth.Challenge) (string, error) {
	user, secret := credentials(&l.auth)
	to, err := auth.GenerateTokenOptions(ctx, l.ep.host, user, secret, ch)
	if err != nil {
		return "", &Failure{Host: l.ep.base(), class: errdefs.ErrUnavailable, Cause: err, text: fmt.Sprintf("registry %s asks for a token in a way that cannot be answered: %v", l.ep.base(), err)}
	}
	client := l.r.gen.tokenClient(l.ep)
	header := http.Header{"User-Agent": {l.r.c.agent}}
	to.FetchRefreshToken = true
	if l.auth.IdentityToken == "" {
		plain := to.Realm
		if to.Realm, err = withQuery(plain, url.Values{"account": {user}, "client_id": {clientID}}); err != nil {
			return "", err
		}
		got, err := auth.FetchToken(ctx, client, header, to)
		if err == nil {
			l.auth.IdentityToken = got.RefreshToken
			return got.Token, nil
		}
		var status remoteerrors.ErrUnexpectedStatus
		if !errors.As(err, &status) || status.StatusCode != http.StatusMethodNotAllowed && status.StatusCode != http.StatusNotFound {
			return "", err
		}
		to.Realm = plain // one that takes POST only
	}
	got, err := auth.FetchTokenWithOAuth(ctx, client, header, clientID, to)
	if err != nil {
		return "", err
	}
	if got.RefreshToken != "" {
		l.auth.IdentityToken = got.RefreshToken
	}
	return got.AccessToken, nil
}

func withQuery(addr string, more url.Values) (string, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return "", fmt.Errorf("the token server's address: %w", err)
	}
	q := u.Query()
	for k, v := range more {
		q[k] = v
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// wrong tells that the credentials are not taken, in Docker's words.
func (l *login) wrong(f *Failure) error {
	at := l.ep.base() + "/v2/"
	if f.page {
		return f
	}
	if f.Host != l.ep.base() || f.Code == "" { // the token server's words
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("Get %q: unauthorized: %s", at, f.Message))
	}
	return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("login attempt to %s failed with status: %d %s: %s: check the user name and the password",
		at, f.Status, http.StatusText(f.Status), f.words()))
}
