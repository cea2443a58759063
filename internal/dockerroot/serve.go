package dockerroot

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// Failure is the path that tells why an archive ended too early, which HTTP has no
// place for in the answer that it ends.
const Failure = "/failure"

// handler answers for a data root.
type handler struct {
	root    *Root
	version string // of the API

	mu     sync.Mutex // guards failed
	failed string
}

// Handler answers requests of Docker's API that only read, as the newest version has them.
func (r *Root) Handler(version string) http.Handler {
	h := &handler{root: r, version: version}
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
// the same was not asked for.
func (h *handler) info(w http.ResponseWriter, _ *http.Request) {
	name, err := os.Hostname()
	answer(w, system.Info{Name: name, DefaultRuntime: "runc", LoggingDriver: "json-file"}, err)
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
	write, err := h.root.Save(req.URL.Query()["names"])
	if err != nil {
		answer(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := write(req.Context(), w); err != nil {
		if !errors.Is(err, context.Canceled) {
			h.mu.Lock()
			h.failed = err.Error()
			h.mu.Unlock()
		}
		panic(http.ErrAbortHandler) // no end, so that nobody takes it for whole
	}
}

func (h *handler) failure(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answer(w, h.failed, nil)
	h.failed = ""
}

func (h *handler) volumes(w http.ResponseWriter, _ *http.Request) {
	list, warnings, err := h.root.Volumes()
	answer(w, volume.ListResponse{Volumes: list, Warnings: warnings}, err)
}

func (h *handler) networks(w http.ResponseWriter, _ *http.Request) {
	list, err := h.root.Networks()
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
