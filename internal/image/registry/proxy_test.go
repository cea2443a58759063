package registry

import (
	"net/http"
	"strings"
	"testing"
)

func TestProxy(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	var asked []string
	proxy := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		switch {
		case r.Method == http.MethodConnect:
			w.WriteHeader(http.StatusForbidden)
		default:
			serveManifest(w)
		}
	})
	insecure := []string{"reg.example", "direct.example"}
	t.Run("from the configuration", func(t *testing.T) {
		asked = nil
		cl := client(t, Config{Insecure: insecure, Proxy: Proxy{HTTP: "http://u:secret@" + proxy.Host, No: "direct.example"}, MaxAttempts: 1})
		cl.setScheme("reg.example", "http")
		cl.setScheme("direct.example", "http")
		if err := resolveAt(t, cl, "reg.example"); err != nil {
			t.Fatal(err)
		}
		if len(asked) == 0 || !strings.HasPrefix(asked[len(asked)-1], "GET http://reg.example/v2/x/manifests/latest") {
			t.Errorf("the proxy was asked for %q", asked)
		}
		asked = nil
		cl.current().connect = connectTo("127.0.0.1:1")
		if err := resolveAt(t, cl, "direct.example"); err == nil || len(asked) > 0 {
			t.Errorf("the proxy was asked for %q, %v", asked, err)
		}
	})
	t.Run("from the environment", func(t *testing.T) {
		asked = nil
		t.Setenv("HTTP_PROXY", proxy.String())
		cl := client(t, Config{Insecure: insecure})
		cl.setScheme("reg.example", "http")
		if err := resolveAt(t, cl, "reg.example"); err != nil || len(asked) == 0 {
			t.Errorf("asked %q, %v", asked, err)
		}
	})
	t.Run("refuses", func(t *testing.T) {
		cl := client(t, Config{Proxy: Proxy{HTTPS: "http://u:secret@" + proxy.Host}, MaxAttempts: 1})
		err := resolveAt(t, cl, "reg.example")
		says(t, err, "registry https://reg.example cannot be reached: the proxy http://u:xxxxx@"+proxy.Host+" answered 403 Forbidden: check the proxy (proxies in daemon.json, HTTPS_PROXY)")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows a password: %v", err)
		}
	})
	t.Run("cannot be reached", func(t *testing.T) {
		cl := client(t, Config{Proxy: Proxy{HTTPS: "http://u:secret@127.0.0.1:1"}, MaxAttempts: 1})
		err := resolveAt(t, cl, "reg.example")
		says(t, err, "registry https://reg.example cannot be reached: the proxy http://u:xxxxx@127.0.0.1:1 cannot be reached: connection refused")
	})
	t.Run("wants a password", func(t *testing.T) {
		wants := server(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) })
		cl := client(t, Config{Insecure: insecure, Proxy: Proxy{HTTP: wants.String()}, MaxAttempts: 1})
		cl.setScheme("reg.example", "http")
		says(t, resolveAt(t, cl, "reg.example"), "the proxy wants a user name and a password: write them as http://USER:PASSWORD@HOST:PORT")
	})
}
