package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

const (
	defaultResults = 25      // of a search, as Docker has it
	maxResults     = 100     // that can be asked for
	maxAnswer      = 4 << 20 // bytes of an answer to a search
)

// SearchRequest is GET /images/search.
type SearchRequest struct {
	Term    string // HOST/WORDS asks HOST, WORDS alone Docker Hub
	Limit   int    // 0 is Docker's 25; 100 at most
	Filters map[string]map[string]bool
	Auth    *registry.AuthConfig
	Headers map[string][]string // X-Meta-…
}

// searchFilter is what the filters of a search mean.
type searchFilter struct {
	official   bool
	byOfficial bool
	stars      int
	none       bool // nothing matches
}

func searchFilters(filters map[string]map[string]bool) (f searchFilter, err error) {
	for key, values := range filters {
		switch key {
		case "is-automated": // Docker Hub has no such images any more
			f.none, err = filterBool(key, values)
		case "is-official":
			f.byOfficial = true
			f.official, err = filterBool(key, values)
		case "stars":
			for v := range values {
				n, nerr := strconv.Atoi(v)
				if nerr != nil {
					return f, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'stars=%s': a whole number is needed", v))
				}
				f.stars = max(f.stars, n)
			}
		default:
			return f, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// filterBool reads a filter that is true or false.
func filterBool(key string, values map[string]bool) (bool, error) {
	yes, no := values["1"] || values["true"], values["0"] || values["false"]
	if len(values) > 2 || yes == no {
		var list []string
		for v := range values {
			list = append(list, v)
		}
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s=%v'", key, list))
	}
	return yes, nil
}

// Search asks a registry's v1 API, the only one that has a search. Docker Hub
// serves it on a host of its own.
func (c *Client) Search(ctx context.Context, q SearchRequest) ([]registry.SearchResult, error) {
	filter, err := searchFilters(q.Filters)
	if err != nil {
		return nil, err
	}
	if strings.Contains(q.Term, "://") {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid repository name: repository name (%s) should not have a scheme", q.Term))
	}
	if q.Limit < 0 || q.Limit > maxResults {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("limit %d is outside the range of [1, %d]", q.Limit, maxResults))
	}
	if q.Limit == 0 {
		q.Limit = defaultResults
	}
	if filter.none {
		return []registry.SearchResult{}, nil
	}
	s, err := c.searcher(q)
	if err != nil {
		return nil, err
	}
	all, err := s.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	found := []registry.SearchResult{}
	for _, r := range all {
		if filter.byOfficial && r.IsOfficial != filter.official || r.StarCount < filter.stars {
			continue
		}
		//lint:ignore SA1019 older clients show it, and Docker Hub's word for it is no longer true (as moby has it)
		r.IsAutomated = false
		found = append(found, r)
	}
	return found, nil
}

// searcher is one search at one registry.
type searcher struct {
	r    *Repository
	ep   *endpoint
	auth *registry.AuthConfig
	name string // of the registry
	term string
}

// splitTerm reads HOST/WORDS.
func splitTerm(term string) (domain, words string) {
	host, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return hubName, term
	}
	return ServerName(host), rest
}

func (c *Client) searcher(q SearchRequest) (*searcher, error) {
	domain, words := splitTerm(q.Term)
	s := &searcher{name: domain, auth: q.Auth, term: words}
	var err error
	if domain != hubName {
		s.r, s.ep, err = c.itself(domain, q.Auth)
		return s, err
	}
	s.term = strings.TrimPrefix(words, "library/")
	g := c.current()
	index, err := url.Parse(g.hubIndex)
	if err != nil {
		return nil, err
	}
	s.r = &Repository{c: c, gen: g, tell: func(string) {}, bad: make(map[*endpoint]error), told: make(map[string]struct{})}
	s.ep = &endpoint{c: c, scheme: index.Scheme, host: index.Host, root: "/v2", can: canPull, from: "the registry itself"}
	if q.Auth != nil && ServerName(q.Auth.ServerAddress) != hubName {
		s.auth = nil // it is another host's
	}
	s.ep.auth = s.r.authorizer(s.ep, s.auth)
	s.r.all = []*endpoint{s.ep}
	return s, nil
}

func (s *searcher) ask(ctx context.Context, q SearchRequest) ([]registry.SearchResult, error) {
	req := request{
		method: http.MethodGet, path: "/v1/search", query: url.Values{"q": {s.term}, "n": {strconv.Itoa(q.Limit)}},
		header: http.Header{"Accept": {"application/json"}, "X-Docker-Token": {"true"}},
	}
	for k, v := range q.Headers {
		if k = http.CanonicalHeaderKey(k); strings.HasPrefix(k, "X-Meta-") {
			req.header[k] = v
		}
	}
	if user, password := credentials(s.auth); user != "" { // an identity token is for a token server, which v1 has not
		var basic http.Request
		basic.Header = req.header
		basic.SetBasicAuth(user, password)
	}
	resp, err := s.send(ctx, req)
	if err != nil {
		return nil, s.explain(err)
	}
	defer resp.Body.Close()
	if isPage(resp.Header, nil) {
		return nil, s.explain(webPage(s.ep.base(), resp))
	}
	var found registry.SearchResults
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, s.r.c.unreachable(s.ep, s.r.gen.settings, err)
	case len(body) > maxAnswer:
		err = fmt.Errorf("it has more than %d bytes", maxAnswer)
	default:
		err = json.Unmarshal(body, &found)
	}
	if err != nil {
		return nil, s.explain(&Failure{Host: s.ep.base(), class: errdefs.ErrUnavailable, Cause: err, text: fmt.Sprintf("error decoding registry search results: %v", err)})
	}
	return found.Results, nil
}

// send answers a challenge for a token once.
func (s *searcher) send(ctx context.Context, q request) (*http.Response, error) {
	ctx = docker.WithScope(ctx, "registry:catalog:search")
	for n := 0; ; n++ {
		resp, err := s.r.send(ctx, s.ep, q)
		if err != nil {
			return nil, s.r.failure(s.ep, err)
		}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		f := refused(s.ep.base(), resp)
		if f.Status != http.StatusUnauthorized || n > 0 || q.header.Get("Authorization") != "" || s.ep.auth.AddResponses(ctx, []*http.Response{resp}) != nil {
			return nil, f
		}
	}
}

// explain tells why nothing was found: most registries have no search.
func (s *searcher) explain(err error) error {
	var f *Failure
	if !errors.As(err, &f) {
		return err
	}
	told := *f
	switch {
	case f.Status == 0 && s.name == hubName:
		told.also = "; where Docker Hub is out of reach, so is its search: look the image up on a mirror's own page"
	case f.Status == 0 && !f.page:
	case f.Status == http.StatusTooManyRequests:
		return &explained{class: errdefs.ErrResourceExhausted, cause: f, text: f.words() + ": the search of " + s.name + " is limited: wait some minutes"}
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden:
		return &explained{class: errdefs.ErrUnauthenticated, cause: f, text: fmt.Sprintf("the search of %s wants a login: %s: log in (docker login %s)", s.name, f.words(), s.name)}
	case f.Status >= 500:
		return &explained{class: errdefs.ErrUnavailable, cause: f, text: fmt.Sprintf("unexpected status code %d: the search of %s fails: try again later", f.Status, s.name)}
	default:
		what := fmt.Sprintf("unexpected status code %d", f.Status)
		if f.Status == 0 {
			what = "it sent a web page"
		}
		return &explained{class: errdefs.ErrNotImplemented, cause: f, text: fmt.Sprintf(
			"registry %s has no search: %s to GET %s/v1/search: use its own page, or its list of repositories (%s/v2/_catalog)", s.name, what, s.ep.base(), s.ep.base())}
	}
	return &told
}
