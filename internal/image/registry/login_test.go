package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

func login1(t *testing.T, cl *Client, a registry.AuthConfig) (registry.AuthResponse, error) {
	t.Helper()
	resp, err := cl.Login(context.Background(), a)
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a password: %v", err)
	}
	return resp, err
}

func TestBasicLogin(t *testing.T) {
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if user, p, ok := r.BasicAuth(); ok && user == "me" && p == "right" && r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	cl := client(t, Config{})
	for _, addr := range []string{u.Host, u.String(), u.String() + "/v1/"} {
		if resp, err := login1(t, cl, registry.AuthConfig{Username: "me", Password: "right", ServerAddress: addr}); err != nil || resp.Status != "Login Succeeded" || resp.IdentityToken != "" {
			t.Errorf("%s: %v %v", addr, resp, err)
		}
	}
	_, err := login1(t, cl, registry.AuthConfig{Username: "me", Password: "secret", ServerAddress: u.Host})
	says(t, err, "login attempt to "+u.String()+"/v2/ failed with status: 401 Unauthorized")
	if !errdefs.IsUnauthorized(err) {
		t.Error(err)
	}
	_, err = login1(t, cl, registry.AuthConfig{IdentityToken: "secret", ServerAddress: u.Host})
	says(t, err, "asks for a login in a way that cannot be answered (WWW-Authenticate: Basic)")
}

func TestTokenLogin(t *testing.T) {
	var asked []string
	token := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		user, p, _ := r.BasicAuth()
		asked = append(asked, fmt.Sprintf("%s %s:%s %s", r.Method, user, p, r.Form.Encode()))
		switch {
		case r.Method == http.MethodGet && user == "me" && p == "right":
			_ = json.NewEncoder(w).Encode(map[string]any{"token": "good", "refresh_token": "identity"})
		case r.Method == http.MethodPost && r.PostForm.Get("refresh_token") == "identity":
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "good", "refresh_token": "identity2"})
		default:
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"details":"incorrect username or password"}`)
		}
	})
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer good" {
			return
		}
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token?x=1",service="reg"`, token))
		w.WriteHeader(http.StatusUnauthorized)
	})
	cl := client(t, Config{Hub: u.Host})
	for _, addr := range []string{"", "https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"} {
		asked = nil
		resp, err := login1(t, cl, registry.AuthConfig{Username: "me", Password: "right", ServerAddress: addr})
		if err != nil || resp.IdentityToken != "identity" {
			t.Errorf("%q: %+v %v", addr, resp, err)
		}
		if want := "GET me:right account=me&client_id=docker&offline_token=true&service=reg&x=1"; strings.Join(asked, "|") != want {
			t.Errorf("asked %q", asked)
		}
	}
	asked = nil
	resp, err := login1(t, cl, registry.AuthConfig{Username: "me", IdentityToken: "identity"})
	if err != nil || resp.IdentityToken != "identity2" {
		t.Errorf("%+v %v", resp, err)
	}
	if want := "POST : access_type=offline&client_id=docker&grant_type=refresh_token&refresh_token=identity&service=reg&x=1"; strings.Join(asked, "|") != want {
		t.Errorf("asked %q", asked)
	}
	_, err = login1(t, cl, registry.AuthConfig{Username: "me", Password: "secret"})
	if want := fmt.Sprintf(`Get "%s/v2/": unauthorized: incorrect username or password`, u); !errdefs.IsUnauthorized(err) || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// TestATokenServerThatTakesPOSTOnly is asked as the OAuth2 part of Docker's
// protocol has it.
func TestATokenServerThatTakesPOSTOnly(t *testing.T) {
	var form url.Values
	token := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		_ = r.ParseForm()
		form = r.PostForm
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "good", "refresh_token": "identity"})
	})
	u := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer good" {
			return
		}
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="reg"`, token))
		w.WriteHeader(http.StatusUnauthorized)
	})
	resp, err := login1(t, client(t, Config{}), registry.AuthConfig{Username: "me", Password: "right", ServerAddress: u.Host})
	if err != nil || resp.IdentityToken != "identity" {
		t.Errorf("%+v %v", resp, err)
	}
	if form.Get("grant_type") != "password" || form.Get("username") != "me" || form.Get("password") != "right" || form.Get("client_id") != "docker" {
		t.Errorf("form %v", form)
	}
}

func TestLoginIsExplained(t *testing.T) {
	for _, c := range []struct {
		name string
		f    http.HandlerFunc
		want string
	}{
		{"open", func(http.ResponseWriter, *http.Request) {}, ""},
		{"no registry", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "login attempt to HOST/v2/ failed with status: 404 Not Found"},
		{"sick", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "login attempt to HOST/v2/ failed with status: 503 Service Unavailable"},
		{"page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, portal) }, "HOST answered with a web page"},
		{"digest", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Www-Authenticate", `Digest realm="x"`)
			w.WriteHeader(401)
		}, "asks for a login in a way that cannot be answered (WWW-Authenticate: Digest)"},
		{"bad realm", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Www-Authenticate", `Bearer realm="127.0.0.1:1/x"`)
			w.WriteHeader(401)
		}, "invalid token auth challenge realm"},
		{"no token server", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Www-Authenticate", `Bearer realm="http://127.0.0.1:1/token"`)
			w.WriteHeader(401)
		}, "http://127.0.0.1:1, to which registry ADDR leads, cannot be reached: connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := server(t, false, c.f)
			_, err := login1(t, client(t, Config{}), registry.AuthConfig{Username: "me", Password: "secret", ServerAddress: u.Host})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			says(t, err, strings.NewReplacer("HOST", u.String(), "ADDR", u.Host).Replace(c.want))
		})
	}
	_, err := login1(t, client(t, Config{}), registry.AuthConfig{ServerAddress: "https://a b/"})
	if !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestLoginGoesToTheRegistryItself: a hosts.toml leads pulls elsewhere, not
// passwords.
func TestLoginGoesToTheRegistryItself(t *testing.T) {
	asked := 0
	elsewhere := server(t, false, func(http.ResponseWriter, *http.Request) { asked++ })
	cl := client(t, Config{CertDirs: hosts(t, "127.0.0.1:1", "server = %q\n", elsewhere)})
	if _, err := login1(t, cl, registry.AuthConfig{Username: "me", Password: "right", ServerAddress: "127.0.0.1:1"}); err == nil || asked > 0 {
		t.Errorf("another host was asked %d times, %v", asked, err)
	}
}

// TestCredentialsAreForOneHost: a client's credentials name the host that they
// are for.
func TestCredentialsAreForOneHost(t *testing.T) {
	seen := map[string]string{}
	f := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if _, p, ok := r.BasicAuth(); ok {
				seen[name] = p
				serveManifest(w)
				return
			}
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	mirror, origin := server(t, false, f("mirror")), server(t, false, f("origin"))
	cl := client(t, Config{Hub: origin.Host, Mirrors: []string{mirror.String()}})
	for _, c := range []struct{ server, want string }{
		{"", "map[origin:p]"},
		{"https://index.docker.io/v1/", "map[origin:p]"},
		{mirror.Host, "map[mirror:p]"},
		{"other.example", "map[]"},
	} {
		clear(seen)
		r := cl.Repository(ref(t, "x"), RepositoryOptions{Auth: &registry.AuthConfig{Username: "u", Password: "p", ServerAddress: c.server}})
		_, err := r.Resolve(context.Background(), ref(t, "x"))
		if fmt.Sprint(seen) != c.want || (err == nil) != (c.want != "map[]") {
			t.Errorf("%q: %v, %v", c.server, seen, err)
		}
	}
}
