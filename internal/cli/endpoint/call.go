package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/client"
)

// Call sends a request that Docker's client library does not know, in the API
// version that was agreed on. An answer of 400 and above is an error, of the
// class of its status.
func (c *Connection) Call(ctx context.Context, method, path string, query url.Values, header http.Header) (*http.Response, error) {
	return c.Send(ctx, method, path, query, header, nil)
}

// GetAs asks in another version of the API than the one that was agreed on.
func (c *Connection) GetAs(ctx context.Context, version, path string) (*http.Response, error) {
	return c.send(ctx, http.MethodGet, "/v"+version+path, nil, nil, nil)
}

// Send is Call with a body.
func (c *Connection) Send(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	return c.send(ctx, method, "/v"+c.ClientVersion()+path, query, header, body)
}

func (c *Connection) send(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: client.DummyHost, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	for k, v := range c.headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("User-Agent", c.userAgent)
	resp, err := c.caller().Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text is about the dummy host
			err = u.Err
		}
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// caller makes the HTTP client of Call, once.
func (c *Connection) caller() *http.Client {
	if c.http == nil {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) }
		c.http = &http.Client{CheckRedirect: client.CheckRedirect, Transport: &http.Transport{DialContext: dial, DisableCompression: true}}
	}
	return c.http
}

func refusal(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var said struct{ Message string }
	text := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &said) == nil && said.Message != "" {
		text = said.Message
	}
	if text == "" {
		text = resp.Status
	}
	return &refused{text: "Error response from daemon: " + text, class: errhttp.ToNative(resp.StatusCode)}
}

type refused struct {
	text  string
	class error
}

func (r *refused) Error() string { return r.text }
func (r *refused) Unwrap() error { return r.class }

// RequireHezi fails unless the engine is Hezi: what only Hezi has must not be
// asked of another, which may do something else.
func (c *Connection) RequireHezi(ctx context.Context, what string) error {
	resp, err := c.Call(ctx, http.MethodHead, "/_ping", nil, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // HEAD has none
	if server := resp.Header.Get("Server"); !strings.HasPrefix(server, "Hezi/") {
		return fmt.Errorf("%s is a feature of Hezi, and the engine at %s is %s: nothing was done", what, c.Endpoint.Host, orUnknown(server))
	}
	return nil
}

func orUnknown(server string) string {
	if server == "" {
		return "another one"
	}
	return server
}
