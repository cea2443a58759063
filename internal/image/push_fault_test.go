package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	apiregistry "github.com/moby/moby/api/types/registry"
	"golang.org/x/sync/errgroup"

	"hezi/internal/image/lists"
	"hezi/internal/image/registry"
	"hezi/test/harness"
)

// front stands before a real registry and does to a push what networks and
// proxies do.
type front struct {
	addr string
	srv  *httptest.Server

	mu   sync.Mutex // guards all below
	hook func(w http.ResponseWriter, r *http.Request, pass http.Handler) (handled bool)
	seen []string // "METHOD what", with the range of a part
	auth []string // credentials, if any, of each request
}

func newFront(t *testing.T) *front {
	t.Helper()
	f := &front{}
	addr := harness.Registry(t)
	real := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: addr})
			p.Out.Host = p.In.Host // it is in the addresses that the registry answers with
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	f.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		hook := f.hook
		f.seen = append(f.seen, strings.TrimSpace(r.Method+" "+kindOf(r.URL.Path)+" "+r.Header.Get("Content-Range")))
		f.auth = append(f.auth, r.Header.Get("Authorization"))
		f.mu.Unlock()
		if hook == nil || !hook(w, r, real) {
			real.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(f.srv.Close)
	f.addr = strings.TrimPrefix(f.srv.URL, "http://")
	return f
}

func kindOf(path string) string {
	switch {
	case strings.HasSuffix(path, "/blobs/uploads/"):
		return "begin"
	case strings.Contains(path, "/blobs/uploads/"):
		return "upload"
	case strings.Contains(path, "/blobs/"):
		return "blob"
	case strings.Contains(path, "/manifests/"):
		return "manifest"
	}
	return "base"
}

// misbehave replaces what is answered, from now on.
func (f *front) misbehave(hook func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook, f.seen, f.auth = hook, nil, nil
}

// asked are the requests so far that begin with prefix.
func (f *front) asked(prefix string) (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.seen {
		if strings.HasPrefix(s, prefix) {
			list = append(list, s)
		}
	}
	return list
}

// cut lets n bytes of the request's body through and breaks the connection.
func cut(w http.ResponseWriter, r *http.Request, pass http.Handler, n int64) {
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r.Body, n), broken{}), r.Body}
	pass.ServeHTTP(w, r)
	panic(http.ErrAbortHandler)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the connection is cut") }

// keeper takes uploads as the distribution specification has it: what arrived of
// a part that was cut stays, and can be asked for. Debian's registry does not
// do that. It gives a whole blob to the registry behind it.
type keeper struct {
	mu      sync.Mutex // guards uploads
	uploads map[string][]byte
}

func newKeeper() *keeper { return &keeper{uploads: map[string][]byte{}} }

func (k *keeper) serve(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
	kind := r.Method + " " + kindOf(r.URL.Path)
	k.mu.Lock()
	defer k.mu.Unlock()
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch kind {
	case "POST begin":
		id = fmt.Sprintf("kept-%d", len(k.uploads))
		k.uploads[id] = nil
		w.Header().Set("Location", r.URL.Path+id)
		w.WriteHeader(http.StatusAccepted)
	case "PATCH upload":
		if !strings.HasPrefix(r.Header.Get("Content-Range"), fmt.Sprintf("%d-", len(k.uploads[id]))) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}
		body, err := io.ReadAll(r.Body)
		k.uploads[id] = append(k.uploads[id], body...)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
	case "GET upload":
		w.Header().Set("Location", r.URL.Path)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(k.uploads[id])-1)))
		w.WriteHeader(http.StatusNoContent)
	case "PUT upload":
		tail, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		k.forward(w, r, pass, append(k.uploads[id], tail...))
	default:
		return false
	}
	return true
}

// forward uploads a blob in one go.
func (k *keeper) forward(w http.ResponseWriter, r *http.Request, pass http.Handler, blob []byte) {
	begin := httptest.NewRequest(http.MethodPost, "http://"+r.Host+r.URL.Path[:strings.LastIndexByte(r.URL.Path, '/')+1], nil)
	rec := httptest.NewRecorder()
	pass.ServeHTTP(rec, begin)
	at, err := rec.Result().Location()
	if err != nil {
		panic(err)
	}
	q := at.Query()
	q.Set("digest", r.URL.Query().Get("digest"))
	at.RawQuery = q.Encode()
	pass.ServeHTTP(w, httptest.NewRequest(http.MethodPut, at.String(), bytes.NewReader(blob)))
}

// refuse answers with an error as registries give it.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"said the registry"}]}`, code)
}

// nth counts the requests of a kind and says whether this is one of those.
func nth(prefix string, which ...int) func(r *http.Request) bool {
	var mu sync.Mutex
	n := 0
	return func(r *http.Request) bool {
		if !strings.HasPrefix(r.Method+" "+kindOf(r.URL.Path), prefix) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		return slices.Contains(which, n)
	}
}

// large is an image with one layer of 5 MB, which is pushed in parts.
func large(t *testing.T, text string) v1.Image {
	t.Helper()
	a := archiveOf(t, dir("d"), file("d/noise", text+noise(5<<20)))
	return imageFrom(t, layerFrom(t, a, a, types.DockerUncompressedLayer))
}

// Whatever happens on the way, a push arrives whole, and does no more than it must.
func TestPushThroughFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hook func() func(http.ResponseWriter, *http.Request, http.Handler) bool
		// most of the requests that may be made
		parts, puts, begins int
		check               func(t *testing.T, f *front)
	}{
		"nothing": {nil, 1, 2, 2, nil},
		"cut in the middle": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			first := nth("PATCH upload", 1)
			return func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
				if first(r) {
					cut(w, r, pass, 3<<20)
				}
				return false
			}
		}, 2, 2, 3, nil}, // Debian's registry forgets what was cut
		"cut three times": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			keeps, some := newKeeper(), nth("PATCH upload", 1, 2, 3)
			return func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
				if some(r) {
					r.Body = struct {
						io.Reader
						io.Closer
					}{io.MultiReader(io.LimitReader(r.Body, 1<<20), broken{}), r.Body}
				}
				return keeps.serve(w, r, pass)
			}
		}, 5, 2, 2, func(t *testing.T, f *front) {
			// The registry kept what it had, and the push went on from there.
			if p := f.asked("PATCH upload "); len(p) != 4 || !strings.HasPrefix(p[1], "PATCH upload 1048576-") || !strings.HasPrefix(p[3], "PATCH upload 3145728-") {
				t.Errorf("%q", p)
			}
		}},
		"the last answer is lost": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			first := nth("PUT upload", 2)
			return func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
				if first(r) {
					pass.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				}
				return false
			}
		}, 1, 2, 2, nil},
		"a proxy's limit": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if r.ContentLength > 3<<20 {
					w.WriteHeader(http.StatusRequestEntityTooLarge)
					return true
				}
				return false
			}
		}, 3, 2, 2, func(t *testing.T, f *front) {
			if p := f.asked("PATCH upload "); len(p) != 3 {
				t.Errorf("%q", p)
			}
		}},
		"no parts": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if r.Method == http.MethodPatch {
					refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
					return true
				}
				return false
			}
		}, 1, 2, 3, nil},
		"the upload is forgotten": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			first := nth("PATCH upload", 1)
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if first(r) {
					refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
					return true
				}
				return false
			}
		}, 2, 2, 3, nil},
		"busy now and then": {func() func(http.ResponseWriter, *http.Request, http.Handler) bool {
			var all []func(*http.Request) bool
			for _, kind := range []string{"HEAD blob", "POST begin", "PATCH upload", "PUT manifest"} {
				all = append(all, nth(kind, 1))
			}
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				for _, first := range all {
					if first(r) {
						w.WriteHeader(http.StatusServiceUnavailable)
						return true
					}
				}
				return false
			}
		}, 2, 2, 3, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t)
			s := open(t, registry.Config{})
			img := large(t, name)
			load(t, s, saved(t, img, "large:1"))
			tagged(t, s, "large:1", f.addr+"/large:1")
			if c.hook != nil {
				f.misbehave(c.hook())
			}
			l := pushed(t, s, PushRequest{Reference: f.addr + "/large:1"})
			wantStates(t, l, img, "Pushed")
			parts, puts, begins := len(f.asked("PATCH upload")), len(f.asked("PUT upload")), len(f.asked("POST begin"))
			if parts > c.parts || puts > c.puts || begins > c.begins {
				t.Errorf("%d parts, %d puts, %d begins; at most %d, %d, %d:\n%s", parts, puts, begins, c.parts, c.puts, c.begins, strings.Join(f.asked(""), "\n"))
			}
			if c.check != nil {
				c.check(t, f)
			}
			f.misbehave(nil)
			other := open(t, registry.Config{})
			if err := other.Pull(t.Context(), PullRequest{Reference: f.addr + "/large:1"}, nil); err != nil { // verifies every byte
				t.Fatal(err)
			}
		})
	}
}

// What cannot be pushed says why, and what to do; nothing is tried for ever.
func TestPushRefused(t *testing.T) {
	f := newFront(t)
	s := open(t, registry.Config{MaxAttempts: 2})
	always := func(prefix string, status int, code string) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !strings.HasPrefix(r.Method+" "+kindOf(r.URL.Path), prefix) {
				return false
			}
			if code == "" {
				w.WriteHeader(status)
			} else {
				refuse(w, status, code)
			}
			return true
		}
	}
	user := &apiregistry.AuthConfig{Username: "u", Password: "p"}
	for name, c := range map[string]struct {
		hook  func(http.ResponseWriter, *http.Request, http.Handler) bool
		auth  *apiregistry.AuthConfig
		parts bool // the image is pushed in parts
		is    func(error) bool
		want  string
	}{
		"nobody":        {always("POST begin", 403, "DENIED"), nil, false, errdefs.IsPermissionDenied, "may require 'docker login': denied: said the registry: log in first: hezi login " + f.addr},
		"somebody":      {always("POST begin", 403, "DENIED"), user, false, errdefs.IsPermissionDenied, "the account that you are logged in with may not push there"},
		"read-only":     {always("POST begin", 405, "UNSUPPORTED"), nil, false, errdefs.IsFailedPrecondition, "does not take pushes"},
		"no repository": {always("POST begin", 404, "NAME_UNKNOWN"), nil, false, errdefs.IsNotFound, "create it there first"},
		"too large": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.ContentLength > 1<<19 {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return true
			}
			return false
		}, nil, true, errdefs.IsResourceExhausted, "client_max_body_size"},
		"forgets uploads":    {always("PATCH upload", 404, "BLOB_UPLOAD_UNKNOWN"), nil, true, errdefs.IsUnavailable, "need the same storage and the same http.secret"},
		"damages":            {always("PUT upload", 400, "DIGEST_INVALID"), nil, false, errdefs.IsDataLoss, "what arrived at registry"},
		"full":               {always("PATCH upload", 507, ""), nil, true, errdefs.IsResourceExhausted, "has no space left"},
		"fails":              {always("PATCH upload", 500, ""), nil, true, errdefs.IsUnavailable, "the registry itself fails"},
		"manifest refused":   {always("PUT manifest", 400, "MANIFEST_INVALID"), nil, false, errdefs.IsInvalidArgument, "does not take manifest"},
		"blobs are not seen": {always("PUT manifest", 404, "MANIFEST_BLOB_UNKNOWN"), nil, false, errdefs.IsNotFound, "lacks a part of"},
		"a page": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "<html><title>Log in to the network</title>")
			return true
		}, nil, false, errdefs.IsUnavailable, "could not be pushed"},
	} {
		t.Run(name, func(t *testing.T) {
			ref := f.addr + "/refused/" + strings.ReplaceAll(name, " ", "-") + ":1"
			img := small(t, name)
			if c.parts {
				img = large(t, name)
			}
			load(t, s, saved(t, img, ref))
			f.misbehave(c.hook)
			err := s.Push(t.Context(), PushRequest{Reference: ref, Auth: c.auth}, nil)
			if !c.is(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if n := len(f.asked("")); n > 40 {
				t.Errorf("%d requests", n)
			}
			t.Log(err)
		})
	}
	noLeases(t, s)
}

// Several pushes of the same layers to one repository send them once.
func TestPushesShare(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	s := open(t, registry.Config{})
	img := large(t, "shared")
	load(t, s, saved(t, img, f.addr+"/shared:0"))
	const n = 6
	for i := 1; i < n; i++ {
		tagged(t, s, f.addr+"/shared:0", fmt.Sprintf("%s/shared:%d", f.addr, i))
	}
	f.misbehave(func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
		if r.Method == http.MethodPatch {
			time.Sleep(300 * time.Millisecond) // the others are to come while it is under way
		}
		return false
	})
	var g errgroup.Group
	shown := make([]lines, n)
	for i := range n {
		g.Go(func() error {
			return s.Push(t.Context(), PushRequest{Reference: fmt.Sprintf("%s/shared:%d", f.addr, i)}, shown[i].show)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if begins := f.asked("POST begin"); len(begins) != 2 { // the layer and the config
		t.Errorf("%d uploads: %v", len(begins), begins)
	}
	for i := range n {
		at(t, fmt.Sprintf("%s/shared:%d", f.addr, i))
		wantStates(t, &shown[i], img, "Pushed")
	}
	noLeases(t, s)
}

// A registry may find the link of a blob empty that another engine's push writes
// again at that moment.
func TestPushBesideAnotherEngine(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	s := open(t, registry.Config{})
	load(t, s, saved(t, small(t, "beside"), f.addr+"/beside:1"))
	var times atomic.Int32
	f.misbehave(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method+" "+kindOf(r.URL.Path) != "PUT manifest" || times.Add(1) > 2 {
			return false
		}
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID")
		return true
	})
	pushed(t, s, PushRequest{Reference: f.addr + "/beside:1"})
	at(t, f.addr+"/beside:1")
}

// Credentials go to the registry alone, wherever it sends the upload.
func TestPushCredentials(t *testing.T) {
	f := newFront(t)
	s := open(t, registry.Config{})
	load(t, s, saved(t, large(t, "credentials"), "c:1"))
	tagged(t, s, "c:1", f.addr+"/c:1")
	var mu sync.Mutex
	var elsewhere []string
	pass, err := url.Parse(f.srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(pass)
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	defer storage.Close()
	f.misbehave(func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
		if r.Header.Get("Authorization") == "" && kindOf(r.URL.Path) != "upload" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if kindOf(r.URL.Path) != "begin" {
			return false
		}
		rec := httptest.NewRecorder()
		pass.ServeHTTP(rec, r)
		w.Header().Set("Location", strings.Replace(rec.Header().Get("Location"), f.srv.URL, storage.URL, 1))
		w.WriteHeader(rec.Code)
		return true
	})
	pushed(t, s, PushRequest{Reference: f.addr + "/c:1", Auth: &apiregistry.AuthConfig{Username: "u", Password: "secret"}})
	if len(elsewhere) == 0 || slices.ContainsFunc(elsewhere, func(a string) bool { return a != "" }) {
		t.Errorf("%q", elsewhere)
	}
	if !slices.ContainsFunc(f.auth, func(a string) bool { return strings.HasPrefix(a, "Basic ") }) {
		t.Errorf("%q", f.auth)
	}
}

// A registry behind a proxy that ends TLS names its uploads by http: they go
// the way that the user's request went.
func TestPushBehindTLS(t *testing.T) {
	f := newFront(t)
	tls := httptest.NewTLSServer(f.srv.Config.Handler)
	defer tls.Close()
	addr := strings.TrimPrefix(tls.URL, "https://")
	s := open(t, registry.Config{Insecure: []string{addr}})
	img := large(t, "tls")
	load(t, s, saved(t, img, "tls:1"))
	tagged(t, s, "tls:1", addr+"/tls:1")
	wantStates(t, pushed(t, s, PushRequest{Reference: addr + "/tls:1"}), img, "Pushed")
}

// A client that goes away ends its push; the registry is told.
func TestPushCancelled(t *testing.T) {
	f := newFront(t)
	s := open(t, registry.Config{MaxUploads: 1})
	img := large(t, "cancelled")
	load(t, s, saved(t, img, "cancelled:1"))
	tagged(t, s, "cancelled:1", f.addr+"/cancelled:1")
	ctx, cancel := context.WithCancel(t.Context())
	f.misbehave(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == http.MethodPatch {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			cancel()
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return false
	})
	if err := s.Push(ctx, PushRequest{Reference: f.addr + "/cancelled:1"}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(f.asked("DELETE upload")) != 1 {
		t.Errorf("%q", f.asked(""))
	}
	f.misbehave(nil)
	wantStates(t, pushed(t, s, PushRequest{Reference: f.addr + "/cancelled:1"}), img, "Pushed")
	noLeases(t, s)
}

// What a list names is copied within a registry that does not mount.
func TestListFromAnotherRepository(t *testing.T) {
	f := newFront(t)
	s := open(t, registry.Config{})
	load(t, s, saved(t, large(t, "listed"), "listed:1"))
	tagged(t, s, "listed:1", f.addr+"/from:1")
	pushed(t, s, PushRequest{Reference: f.addr + "/from:1"})
	cut := nth("GET blob", 1, 3)
	f.misbehave(func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
		if cut(r) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		q := r.URL.Query()
		q.Del("mount")
		q.Del("from")
		r.URL.RawQuery = q.Encode()
		return false
	})
	ctx := t.Context()
	remote := lists.Lists{Registries: s.registries}
	m, err := remote.Fetch(ctx, f.addr+"/from:1", false, registry.RepositoryOptions{})
	if err != nil || m.Descriptor.Platform.Architecture != "amd64" || m.Ref != f.addr+"/from:1" {
		t.Fatalf("%+v %v", m, err)
	}
	list := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		types.DockerManifestList, m.Descriptor.MediaType, m.Descriptor.Digest, m.Descriptor.Size)
	q := lists.Request{Name: f.addr + "/list:1", MediaType: string(types.DockerManifestList), Raw: []byte(list), Manifests: []lists.Manifest{m}}
	done, err := remote.Put(ctx, q, registry.RepositoryOptions{})
	if err != nil || done.Digest.String() != digestOf([]byte(list)) || !slices.Equal(done.Refs, []string{f.addr + "/list@" + m.Descriptor.Digest.String()}) {
		t.Fatalf("%+v %v", done, err)
	}
	f.misbehave(nil)
	other := open(t, registry.Config{})
	if err := other.Pull(ctx, PullRequest{Reference: f.addr + "/list:1"}, nil); err != nil {
		t.Fatal(err)
	}
	all, err := remote.Fetch(ctx, f.addr+"/list:1", true, registry.RepositoryOptions{})
	if err != nil || len(all.Manifests) != 1 || string(all.Manifests[0].Raw) != string(m.Raw) || all.Manifests[0].Descriptor.Platform.OS != "linux" {
		t.Errorf("%+v %v", all, err)
	}
	for want, change := range map[string]func(*lists.Request){
		"internal digest mismatch":    func(q *lists.Request) { q.Manifests[0].Raw = []byte("{}") },
		"from a different registry":   func(q *lists.Request) { q.Manifests[0].Ref = "elsewhere.example/x:1" },
		"no media type of a manifest": func(q *lists.Request) { q.MediaType = "text/html" },
		"name it by a tag":            func(q *lists.Request) { q.Name = f.addr + "/list@" + m.Descriptor.Digest.String() },
		"invalid reference format":    func(q *lists.Request) { q.Name = "UPPER" },
		"lacks a part of":             func(q *lists.Request) { q.Name, q.Manifests = f.addr+"/empty:1", nil },
	} {
		bad := q
		bad.Manifests = slices.Clone(q.Manifests)
		change(&bad)
		if _, err := remote.Put(ctx, bad, registry.RepositoryOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
