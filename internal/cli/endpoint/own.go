package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/client"
)

// ErrNotHezi is the answer of an engine that lacks what only Hezi's has.
var ErrNotHezi = errors.New("this engine is not Hezi's, or older than this command")

// maxOwn bounds an answer to GetOwn in bytes.
const maxOwn = 16 << 20

// GetOwn asks for what Docker's API does not have, below /hezi, and decodes the
// JSON that is answered. raw is that answer.
func (c *Connection) GetOwn(ctx context.Context, path string, query url.Values, header http.Header, out any) (raw []byte, err error) {
	return c.own(ctx, http.MethodGet, path, query, header, nil, out)
}

// PostOwn is GetOwn for a request with a JSON body.
func (c *Connection) PostOwn(ctx context.Context, path string, query url.Values, header http.Header, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/json")
	_, err = c.own(ctx, http.MethodPost, path, query, header, body, out)
	return err
}

// DeleteOwn is GetOwn for a removal; out may be nil.
func (c *Connection) DeleteOwn(ctx context.Context, path string, query url.Values, out any) error {
	_, err := c.own(ctx, http.MethodDelete, path, query, nil, nil, out)
	return err
}

// KillExec sends a signal to an exec.
func (c *Connection) KillExec(ctx context.Context, id, signal string) error {
	_, err := c.own(ctx, http.MethodPost, "/exec/"+url.PathEscape(id)+"/kill", url.Values{"signal": {signal}}, nil, nil, nil)
	return err
}

func (c *Connection) own(ctx context.Context, method, path string, query url.Values, header http.Header, body []byte, out any) (raw []byte, err error) {
	addr := url.URL{Scheme: "http", Host: client.DummyHost, Path: "/v" + c.ClientVersion() + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, addr.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range c.headers {
		req.Header.Set(k, v)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", c.userAgent)
	dial := c.Dialer()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(resp.Body, maxOwn)); err != nil {
		return nil, fmt.Errorf("read the engine's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, refusedOwn(resp, raw)
	}
	if out == nil {
		return raw, nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("the engine's answer is not what it should be: %w", err)
	}
	return raw, nil
}

// refusedOwn reads an error as the API has it.
func refusedOwn(resp *http.Response, raw []byte) error {
	var e struct{ Message string }
	if json.Unmarshal(raw, &e) != nil || e.Message == "" {
		e.Message = "the engine answered " + resp.Status
	}
	if resp.StatusCode == http.StatusNotFound && e.Message == "page not found" {
		return ErrNotHezi
	}
	return &refused{text: "Error response from daemon: " + e.Message, class: errhttp.ToNative(resp.StatusCode)}
}
