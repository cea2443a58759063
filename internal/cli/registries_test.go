package cli

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// serveRegistries is what the engine of the tests knows of registries: a search
// that finds two images, a login with the password right, and a report.
func serveRegistries(w http.ResponseWriter, r *http.Request, path string) {
	var auth registry.AuthConfig
	switch path {
	case "/auth":
		_ = json.NewDecoder(r.Body).Decode(&auth)
		switch {
		case auth.Password == "right" && auth.Username == "token":
			answer(w, 200, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: "identity"})
		case auth.Password == "right":
			answer(w, 200, registry.AuthResponse{Status: "Login Succeeded"})
		default:
			refuse(w, 401, `Get "https://`+auth.ServerAddress+`/v2/": unauthorized: incorrect username or password`)
		}
	case "/images/search":
		if a, err := authconfig.Decode(r.Header.Get(registry.AuthHeader)); err == nil {
			auth = *a
		}
		if r.FormValue("limit") == "101" {
			refuse(w, 400, "limit 101 is outside the range of [1, 100]")
			return
		}
		answer(w, 200, []registry.SearchResult{
			{Name: r.FormValue("term"), Description: "one line\nand another, which together are far too long", StarCount: 316, IsOfficial: true},
			{Name: "for/" + strconv.Quote(auth.Username), Description: r.FormValue("filters")},
		})
	case "/hezi/manifest":
		serveManifest(w, r)
	case "/hezi/manifest/list":
		var q struct {
			Raw       []byte
			Manifests []struct{ Ref string }
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		answer(w, 200, map[string]any{"Digest": digest.FromBytes(q.Raw), "Refs": []string{r.FormValue("name") + "@from " + q.Manifests[0].Ref}})
	case "/hezi/registry/test":
		switch r.FormValue("name") {
		case "dockerd.example":
			refuse(w, 404, "page not found")
		case "bad.example":
			refuse(w, 400, "/etc/hezi/certs.d/bad.example/hosts.toml: line 1: unknown key")
		case "down.example":
			answer(w, 200, map[string]any{"Registry": "down.example", "Endpoints": []any{map[string]any{"URL": "https://down.example", "Source": "the registry itself", "Answer": "connection refused", "Detail": "registry cannot be reached"}}})
		default:
			answer(w, 200, map[string]any{"Registry": r.FormValue("name"), "Endpoints": []any{
				map[string]any{"URL": "http://mirror.example", "Mirror": true, "Source": "registry-mirrors", "Answer": "404 Not Found", "Detail": "no such thing", "Took": 1_500_000},
				map[string]any{"URL": "https://reg.example", "Source": "the registry itself", "Answer": "ok", "Serves": true, "First": true, "Login": "Basic", "User": "me", "Certificate": "reg.example until 2030-01-01, issued by X", "Took": 2_000_000},
			}})
		}
	}
}

// serveManifest is a registry with one image, of OCI's types, and a list of it.
func serveManifest(w http.ResponseWriter, r *http.Request) {
	image := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}`)
	d := map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.FromBytes(image), "size": len(image), "platform": map[string]string{"os": "linux", "architecture": "arm"}}
	switch name := r.FormValue("name"); {
	case strings.HasPrefix(name, "dockerd.example"):
		refuse(w, 404, "page not found")
	case strings.HasSuffix(name, ":nosuch"):
		refuse(w, 404, "manifest unknown")
	case strings.HasSuffix(name, ":list"):
		child := map[string]any{"Ref": name + "@" + digest.FromBytes(image).String(), "Descriptor": d}
		if r.FormValue("all") != "" {
			child["Raw"] = image
		}
		answer(w, 200, map[string]any{"Ref": name, "Descriptor": map[string]any{"mediaType": "application/vnd.oci.image.index.v1+json"}, "Raw": []byte("{}"), "Manifests": []any{child}})
	default:
		answer(w, 200, map[string]any{"Ref": name, "Descriptor": d, "Raw": image})
	}
}
