package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// One request may take a registry as insecure; the next one does not.
func TestInsecureForOnce(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { serveManifest(w) })
	for name, serve := range map[string]func(http.Handler) *httptest.Server{"an unknown certificate": httptest.NewTLSServer, "no TLS": httptest.NewServer} {
		t.Run(name, func(t *testing.T) {
			srv := serve(handler)
			defer srv.Close()
			cl, err := New(Config{CertDirs: []string{}}, "test", nil)
			if err != nil {
				t.Fatal(err)
			}
			cl.current().connect = connectTo(srv.Listener.Addr().String())
			ref, err := reference.ParseNamed("reg.example/x:1")
			if err != nil {
				t.Fatal(err)
			}
			for _, insecure := range []bool{false, true, false} {
				_, err := cl.Repository(ref, RepositoryOptions{Insecure: insecure}).Resolve(t.Context(), ref)
				if insecure != (err == nil) {
					t.Errorf("insecure %v: %v", insecure, err)
				}
				if err != nil && !strings.Contains(err.Error(), "insecure-registries") {
					t.Errorf("%v", err)
				}
			}
		})
	}
}
