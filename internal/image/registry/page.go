package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
)

// isPage says whether an answer is a web page. body may be its beginning only.
func isPage(h http.Header, body []byte) bool {
	if t := mediaType(h); t == "text/html" || t == "application/xhtml+xml" {
		return true
	}
	body = bytes.ToLower(bytes.TrimSpace(body[:min(len(body), 512)]))
	return bytes.HasPrefix(body, []byte("<!doctype html")) || bytes.HasPrefix(body, []byte("<html"))
}

// title is a page's, in parentheses; "" if it has none.
func title(body []byte) string {
	low := bytes.ToLower(body)
	from := bytes.Index(low, []byte("<title>"))
	if from < 0 || len(low) != len(body) {
		return ""
	}
	from += len("<title>")
	to := bytes.Index(low[from:], []byte("</title>"))
	if to < 0 {
		return ""
	}
	text := strings.Join(strings.Fields(printable(html.UnescapeString(string(body[from:from+min(to, 300)])))), " ")
	if text == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", text)
}

// webPage makes a Failure of a page where the protocol has none. It closes the
// body.
func webPage(host string, resp *http.Response) *Failure {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what is missing is only words
	return pageFailure(host, body)
}

func pageFailure(host string, body []byte) *Failure {
	return &Failure{Host: host, class: errdefs.ErrUnavailable, lied: true, page: true, brief: "a web page" + title(body), text: fmt.Sprintf(
		"%s answered with a web page%s: it is no registry, or a proxy or a login page of the network (a captive portal) answers in its place: "+
			"open a page in a browser on this network to log in, and check the name and the proxy (proxies in daemon.json, HTTPS_PROXY)", host, title(body))}
}

// isText says whether what was answered in place of a manifest is of no registry:
// none takes a manifest that is not JSON, and all name themselves or the digest. What
// begins as a manifest was cut off.
func isText(h http.Header, body []byte) bool {
	return h.Get("Docker-Content-Digest") == "" && h.Get("Docker-Distribution-Api-Version") == "" &&
		!bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) && !json.Valid(body)
}

func textFailure(host string, body []byte) *Failure {
	text := strings.Join(strings.Fields(printable(string(body[:min(len(body), 60)]))), " ")
	if len(body) > 60 {
		text += "…"
	}
	said := fmt.Sprintf("%q", text)
	if text == "" {
		said = "nothing"
	}
	return &Failure{Host: host, class: errdefs.ErrUnavailable, lied: true, page: true, brief: said, text: fmt.Sprintf(
		"%s answered %s where a manifest was asked for: what is there is no registry: check the name, the port and the proxy (proxies in daemon.json, HTTPS_PROXY)", host, said)}
}

// errWantsTLS is what a server says that has TLS and was asked without.
var errWantsTLS = errors.New("client sent an HTTP request to an HTTPS server")

// wantsTLS recognises that answer of Go's and nginx' servers. What it reads of
// the body is put back.
func wantsTLS(resp *http.Response) bool {
	if resp.StatusCode != http.StatusBadRequest || resp.Request == nil || resp.Request.URL.Scheme != "http" {
		return false
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // an error comes again
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	return bytes.Contains(head, []byte("HTTP request to an HTTPS server")) || bytes.Contains(head, []byte("HTTP request was sent to HTTPS port"))
}
