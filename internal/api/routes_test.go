package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
)

func newTestServer(t *testing.T, b Backend) *Server {
	t.Helper()
	s := NewServer(slog.New(slog.NewTextHandler(io.Discard, nil)), func() bool { return false }, func(err error) error { return err })
	s.Ready(b)
	return s
}

func message(t *testing.T, body io.Reader) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.NewDecoder(body).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m.Message
}

// Every operation of the API has a route: a handler, or a refusal that is
// never a success.
func TestEveryOperationHasARoute(t *testing.T) {
	f, err := os.Open("testdata/operations.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newTestServer(t, Backend{})
	real := map[string]bool{}
	for _, group := range [][]route{systemRoutes, containerRoutes, streamRoutes, limitRoutes, execRoutes, imageRoutes, networkRoutes, volumeRoutes, diskRoutes} {
		for _, r := range group {
			real[r.method+" "+strings.ReplaceAll(r.path, "...", "")] = true
		}
	}
	for scan := bufio.NewScanner(f); scan.Scan(); {
		w := strings.Fields(scan.Text())
		method, path, kind := w[0], w[1], w[3]
		concrete := strings.NewReplacer("{id}", "abc", "{name}", "a/b:c").Replace(path)
		if strings.HasPrefix(path, "/plugins") || strings.HasPrefix(path, "/volumes") {
			concrete = strings.NewReplacer("{name}", "abc").Replace(path)
		}
		rt, arg := s.router.find(method, concrete)
		if rt == nil {
			t.Errorf("%s %s has no route", method, concrete)
			continue
		}
		if got := strings.ReplaceAll(rt.path, "...", ""); got != path {
			t.Errorf("%s %s went to %s (argument %q)", method, concrete, got, arg)
		}
		if real[method+" "+path] || path == "/plugins" {
			continue
		}
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequest(method, concrete, nil))
		want := map[string][]int{"full": {501}, "plugins": {501}, "swarm": {503, 501}}[kind]
		if !(rec.Code == want[0] || len(want) > 1 && rec.Code == want[1]) {
			t.Errorf("%s %s answered %d, want one of %v", method, concrete, rec.Code, want)
		}
		if method != "HEAD" && len(message(t, rec.Body)) < 20 {
			t.Errorf("%s %s: the refusal says nothing", method, concrete)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		path string
		code int
		says string
	}{
		{"/_ping", 200, ""},
		{"/v1.24/_ping", 200, ""},
		{"/v1.56/_ping", 200, ""},
		{"/v1.57/_ping", 400, "client version 1.57 is too new. Maximum supported API version is 1.56"},
		{"/v2.0/_ping", 400, "client version 2.0 is too new. Maximum supported API version is 1.56"},
		{"/v1.23/_ping", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"/v1.24/nothing", 404, "page not found"},
		{"/v1.54/images/a/b/attestations", 404, "GET /images/{name...}/attestations requires API version 1.55, but the client asked for version 1.54"},
	} {
		s := newTestServer(t, Backend{})
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequest("GET", tc.path, nil))
		if rec.Code != tc.code {
			t.Errorf("%s: status %d, want %d", tc.path, rec.Code, tc.code)
		}
		if tc.says != "" {
			if got := message(t, rec.Body); got != tc.says {
				t.Errorf("%s says %q, want %q", tc.path, got, tc.says)
			}
		}
		for _, h := range []string{"Api-Version", "Docker-Experimental", "Ostype", "Server"} {
			if rec.Header().Get(h) == "" {
				t.Errorf("%s: no header %s", tc.path, h)
			}
		}
	}
}

func TestErrorMap(t *testing.T) {
	for _, tc := range []struct {
		class error
		code  int
	}{
		{errdefs.ErrNotFound, 404}, {errdefs.ErrInvalidArgument, 400}, {errdefs.ErrConflict, 409},
		{errdefs.ErrAlreadyExists, 409}, {errdefs.ErrFailedPrecondition, 409}, {errdefs.ErrNotModified, 304},
		{errdefs.ErrPermissionDenied, 403}, {errdefs.ErrUnauthenticated, 401}, {errdefs.ErrUnavailable, 503},
		{errdefs.ErrNotImplemented, 501}, {errors.New("anything"), 500},
		{&http.MaxBytesError{Limit: 1}, 413},
	} {
		err := fmt.Errorf("what was tried: %w", tc.class)
		rec := httptest.NewRecorder()
		writeError(rec, err)
		if rec.Code != tc.code {
			t.Errorf("%v: %d, want %d", tc.class, rec.Code, tc.code)
		}
		if tc.code != 304 {
			if got := message(t, rec.Body); got != err.Error() {
				t.Errorf("message %q, want %q", got, err)
			}
		}
	}
}

type fakeVolumes struct{ Volumes }

func (fakeVolumes) Create(_ context.Context, r volume.CreateRequest) (volume.Volume, error) {
	return volume.Volume{Name: r.Name}, nil
}

func TestBodies(t *testing.T) {
	for _, tc := range []struct {
		kind, body string
		code       int
		says       string
	}{
		{"application/json", `{"Name":"a","NoSuchField":1}`, 201, ""},
		{"application/json; charset=utf-8", `{"Name":"a"}`, 201, ""},
		{"application/json", `{"Name":"a"} {}`, 400, "unexpected content after JSON"},
		{"application/json", `{"Name":`, 400, "invalid JSON"},
		{"application/json", ``, 400, "invalid JSON: got EOF while reading request body"},
		{"text/plain", `{"Name":"a"}`, 400, "unsupported Content-Type header (text/plain): must be 'application/json'"},
		{"application/json", `{"Name":"` + strings.Repeat("a", maxJSON) + `"}`, 400, "too large"},
	} {
		s := newTestServer(t, Backend{Volumes: fakeVolumes{}})
		r := httptest.NewRequest("POST", "/v1.47/volumes/create", strings.NewReader(tc.body))
		r.Header.Set("Content-Type", tc.kind)
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		if rec.Code != tc.code {
			t.Errorf("%.40s: %d, want %d", tc.body, rec.Code, tc.code)
		}
		if got := rec.Body.String(); !strings.Contains(got, tc.says) {
			t.Errorf("%.40s says %q, want %q", tc.body, got, tc.says)
		}
	}
}

func TestFilters(t *testing.T) {
	for _, raw := range []string{`{"label":{"a=b":true},"status":{"running":true}}`, `{"label":["a=b"],"status":["running"]}`} {
		r := httptest.NewRequest("GET", "/x", nil)
		q := r.URL.Query()
		q.Set("filters", raw)
		r.URL.RawQuery = q.Encode()
		f, err := (&call{r: r}).filters()
		if err != nil || !f["label"]["a=b"] || !f["status"]["running"] {
			t.Errorf("%s: %v, %v", raw, f, err)
		}
	}
	r := httptest.NewRequest("GET", "/x?filters=nonsense", nil)
	if _, err := (&call{r: r}).filters(); statusOf(err) != 400 {
		t.Errorf("nonsense gave %v", err)
	}
}

// A handler decodes, calls and encodes; it fits on a quarter of a screen.
func TestHandlersAreShort(t *testing.T) {
	fset := token.NewFileSet()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || len(fn.Type.Params.List) == 0 {
				continue
			}
			star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
			if !ok {
				continue
			}
			if id, ok := star.X.(*ast.Ident); !ok || id.Name != "call" {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > 25 {
				t.Errorf("%s: %s has %d lines", e.Name(), fn.Name.Name, n)
			}
		}
	}
}
