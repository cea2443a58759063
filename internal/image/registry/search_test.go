package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

func filters(kv ...string) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for i := 0; i < len(kv); i += 2 {
		if out[kv[i]] == nil {
			out[kv[i]] = map[string]bool{}
		}
		out[kv[i]][kv[i+1]] = true
	}
	return out
}

func TestSearch(t *testing.T) {
	var asked []string
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		user, p, _ := r.BasicAuth()
		asked = append(asked, fmt.Sprintf("%s %s %s:%s %s", r.Method, r.URL, user, p, r.Header.Get("X-Meta-A")))
		fmt.Fprint(w, `{"num_results":3,"results":[{"name":"a","star_count":9,"is_official":true,"is_automated":true,"description":"one"},{"name":"b","star_count":3},{"name":"c","star_count":0}]}`)
	})
	cl := client(t, Config{HubIndex: u.String()})
	for _, c := range []struct {
		q    SearchRequest
		want string // names
		ask  string
	}{
		{SearchRequest{Term: "library/x y"}, "a b c", "GET /v1/search?n=25&q=x+y : "},
		{SearchRequest{Term: "a/b", Limit: 3}, "a b c", "GET /v1/search?n=3&q=a%2Fb : "},
		{SearchRequest{Term: "docker.io/x", Filters: filters("is-official", "true")}, "a", "GET /v1/search?n=25&q=x : "},
		{SearchRequest{Term: u.Host + "/x", Filters: filters("is-official", "false", "stars", "1")}, "b", "GET /v1/search?n=25&q=x : "},
		{SearchRequest{Term: "x", Filters: filters("stars", "3", "stars", "4")}, "a", "GET /v1/search?n=25&q=x : "},
		{SearchRequest{Term: "x", Filters: filters("is-automated", "1")}, "", ""},
		{SearchRequest{Term: "x", Auth: &registry.AuthConfig{Username: "u", Password: "p", ServerAddress: "https://index.docker.io/v1/"}, Headers: map[string][]string{"X-Meta-A": {"1"}}}, "a b c", "GET /v1/search?n=25&q=x u:p 1"},
		{SearchRequest{Term: "x", Auth: &registry.AuthConfig{Username: "u", Password: "p", ServerAddress: "other.example"}}, "a b c", "GET /v1/search?n=25&q=x : "},
		{SearchRequest{Term: u.Host + "/x", Auth: &registry.AuthConfig{Username: "u", Password: "p", ServerAddress: u.Host}}, "a b c", "GET /v1/search?n=25&q=x u:p "},
	} {
		asked = nil
		found, err := cl.Search(context.Background(), c.q)
		var names []string
		for _, r := range found {
			names = append(names, r.Name)
			//lint:ignore SA1019 it must not be
			if r.IsAutomated {
				t.Errorf("%s is automated", r.Name)
			}
		}
		if err != nil || strings.Join(names, " ") != c.want || strings.Join(asked, "|") != c.ask {
			t.Errorf("%+v: %q, %v\nasked %q", c.q, names, err, asked)
		}
	}
	for _, q := range []SearchRequest{
		{Term: "https://x/y"}, {Term: "x", Limit: 101}, {Term: "x", Limit: -1}, {Term: "x", Filters: filters("name", "x")},
		{Term: "x", Filters: filters("stars", "many")}, {Term: "x", Filters: filters("is-official", "perhaps")}, {Term: "x", Filters: filters("is-official", "true", "is-official", "false")},
		{Term: "a..b:x/y"},
	} {
		if _, err := cl.Search(context.Background(), q); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

func TestSearchByToken(t *testing.T) {
	s := &tokens{handle: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"results":[{"name":"a"}]}`) }}
	u := s.registry(t, "u", "p")
	cl := client(t, Config{})
	found, err := cl.Search(context.Background(), SearchRequest{Term: u.Host + "/x", Auth: &registry.AuthConfig{Username: "u", IdentityToken: "identity"}})
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if scope := s.forms[0].Get("scope"); !strings.Contains(scope, "registry:catalog:search") {
		t.Errorf("scope %q", scope)
	}
}

func TestSearchIsExplained(t *testing.T) {
	for _, c := range []struct {
		f    http.HandlerFunc
		want string
		is   func(error) bool
	}{
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "registry HOST has no search: unexpected status code 404 to GET http://HOST/v1/search: use its own page, or its list of repositories (http://HOST/v2/_catalog)", errdefs.IsNotImplemented},
		{func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{") }, "error decoding registry search results", nil},
		{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, portal)
		}, "registry HOST has no search: it sent a web page to GET http://HOST/v1/search", nil},
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, "the search of HOST wants a login", errdefs.IsUnauthorized},
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, "the search of HOST is limited", errdefs.IsResourceExhausted},
		{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "unexpected status code 500", errdefs.IsUnavailable},
	} {
		u := server(t, false, c.f)
		_, err := client(t, Config{}).Search(context.Background(), SearchRequest{Term: u.Host + "/x"})
		says(t, err, strings.ReplaceAll(c.want, "HOST", u.Host))
		if c.is != nil && !c.is(err) {
			t.Errorf("class of %v", err)
		}
	}
	_, err := client(t, Config{HubIndex: "http://127.0.0.1:1"}).Search(context.Background(), SearchRequest{Term: "x"})
	says(t, err, "registry http://127.0.0.1:1 cannot be reached: connection refused", "where Docker Hub is out of reach, so is its search")
}

func TestInspect(t *testing.T) {
	config := `{"os":"linux","architecture":"arm64","variant":"v8","config":{"Env":[]}}`
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"x","digest":%q,"size":%d}}`, digest.FromString(config), len(config))
	index := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"platform":{"os":"linux","architecture":"amd64"}},{"platform":{"os":"linux","architecture":"arm","variant":"v7"}},{}]}`
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		for _, body := range []string{image, index} {
			if strings.HasSuffix(r.URL.Path, digest.FromString(body).String()) || strings.HasSuffix(r.URL.Path, map[string]string{image: "image", index: "index"}[body]) {
				w.Header().Set("Content-Type", "application/x-whatever")
				fmt.Fprint(w, body)
				return
			}
		}
		if strings.HasSuffix(r.URL.Path, digest.FromString(config).String()) {
			fmt.Fprint(w, config)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	cl := client(t, Config{})
	auth := RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p"}}
	for name, want := range map[string]string{
		"image": fmt.Sprintf(`{"Descriptor":{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"%s","size":%d},"Platforms":[{"architecture":"arm64","os":"linux","variant":"v8"}]}`, digest.FromString(image), len(image)),
		"index": fmt.Sprintf(`{"Descriptor":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"%s","size":%d},"Platforms":[{"architecture":"amd64","os":"linux"},{"architecture":"arm","os":"linux","variant":"v7"}]}`, digest.FromString(index), len(index)),
	} {
		for _, n := range []string{u.Host + "/x:" + name, u.Host + "/x@" + digest.FromString(map[string]string{"image": image, "index": index}[name]).String()} {
			got, err := cl.Inspect(context.Background(), n, auth)
			b, _ := json.Marshal(got)
			if err != nil || string(b) != want {
				t.Errorf("%s: %v\ngot  %s\nwant %s", n, err, b, want)
			}
		}
	}
	if _, err := cl.Inspect(context.Background(), u.Host+"/x:image", RepositoryOptions{}); !errdefs.IsUnauthorized(err) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := cl.Inspect(context.Background(), u.Host+"/x:none", auth); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	for _, n := range []string{"X", strings.Repeat("a", 64)} {
		if _, err := cl.Inspect(context.Background(), n, auth); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", n, err)
		}
	}
}
