package dockerroot

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// Failure is the path that tells why an archive of the images of ?names= ended too early, which HTTP has no
// place for in the answer that it ends.
const Failure = "/failure"

// handler answers for a data root.
type handler struct {
	root    *Root
	version string // of the API

	mu       sync.Mutex        // guards the rest
	failed   map[string]string // by the images that were asked for
	warnings []string          // what was left out of answers
}

// Handler answers requests of Docker's API that only read, as the newest version has them.
func (r *Root) Handler(version string) http.Handler {
	h := &handler{root: r, version: version, failed: map[string]string{}, warnings: slices.Clone(r.warnings)}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", h.ping)
	mux.HandleFunc("GET /info", h.info)
	mux.HandleFunc("GET /images/json", h.images)
	mux.HandleFunc("GET /images/get", h.save)
	mux.HandleFunc("GET /images/{name...}", h.image)
	mux.HandleFunc("GET /volumes", h.volumes)
	mux.HandleFunc("GET /networks", h.networks)
	mux.HandleFunc("GET /containers/json", h.containers)
	mux.HandleFunc("GET /containers/{id}/json", h.container)
	mux.HandleFunc("GET "+Failure, h.failure)
	prefix := regexp.MustCompile(`^/v[0-9.]+/`)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		u := *req.URL
		u.Path = prefix.ReplaceAllString(u.Path, "/")
		u.RawPath = ""
		r := *req
		r.URL = &u
		mux.ServeHTTP(w, &r)
	})
}

// answer encodes what was found, or the error.
func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(errhttp.ToHTTP(err))
		v = map[string]string{"message": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // who asked is gone
}

func (h *handler) ping(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Api-Version", h.version)
	w.Header().Set("Ostype", "linux")
	_, _ = io.WriteString(w, "OK") // who asked is gone
}

// info is what a Docker without a configuration says: what a container has that is
// the same was not asked for. Its warnings are those of all answers before.
func (h *handler) info(w http.ResponseWriter, _ *http.Request) {
	name, err := os.Hostname()
	h.mu.Lock()
	defer h.mu.Unlock()
	answer(w, system.Info{Name: name, DefaultRuntime: "runc", LoggingDriver: "json-file", Warnings: h.warnings}, err)
	h.warnings = nil
}

func (h *handler) images(w http.ResponseWriter, _ *http.Request) { answer(w, h.root.Images(), nil) }

func (h *handler) image(w http.ResponseWriter, req *http.Request) {
	name, ok := strings.CutSuffix(req.PathValue("name"), "/json")
	if !ok {
		http.NotFound(w, req)
		return
	}
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	i, err := h.root.Image(name)
	answer(w, i, err)
}

func (h *handler) save(w http.ResponseWriter, req *http.Request) {
	names := req.URL.Query()["names"]
	h.takeFailure(names)
	write, err := h.root.Save(names)
	if err != nil {
		answer(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	to := &taker{Writer: w}
	if err := write(req.Context(), to); err != nil {
		if to.err == nil && req.Context().Err() == nil { // else it is who asked that has given up
			h.mu.Lock()
			h.failed[failureOf(names)] = err.Error()
			h.mu.Unlock()
		}
		panic(http.ErrAbortHandler) // no end, so that nobody takes it for whole
	}
}

// taker remembers that what is written does not arrive.
type taker struct {
	io.Writer
	err error
}

func (t *taker) Write(b []byte) (int, error) {
	n, err := t.Writer.Write(b)
	if err != nil {
		t.err = err
	}
	return n, err
}

func failureOf(names []string) string { return strings.Join(names, "\n") }

// takeFailure forgets why an archive of these images ended too early, and says it.
func (h *handler) takeFailure(names []string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := h.failed[failureOf(names)]
	delete(h.failed, failureOf(names))
	return text
}

func (h *handler) failure(w http.ResponseWriter, req *http.Request) {
	answer(w, h.takeFailure(req.URL.Query()["names"]), nil)
}

func (h *handler) volumes(w http.ResponseWriter, _ *http.Request) {
	list, warnings, err := h.root.Volumes()
	answer(w, volume.ListResponse{Volumes: list, Warnings: warnings}, err)
}

func (h *handler) networks(w http.ResponseWriter, _ *http.Request) {
	list, warnings, err := h.root.Networks()
	h.mu.Lock()
	h.warnings = append(h.warnings, warnings...)
	h.mu.Unlock()
	if list == nil {
		list = []network.Inspect{}
	}
	answer(w, list, err)
}

func (h *handler) containers(w http.ResponseWriter, _ *http.Request) {
	list, err := h.root.Containers()
	answer(w, list, err)
}

func (h *handler) container(w http.ResponseWriter, req *http.Request) {
	c, err := h.root.Container(req.PathValue("id"))
	answer(w, c, err)
}
