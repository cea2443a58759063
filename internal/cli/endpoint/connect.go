package endpoint

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/docker/cli/cli/connhelper/commandconn"
	"github.com/docker/cli/cli/connhelper/ssh"
	"github.com/docker/go-connections/tlsconfig"
	"github.com/moby/moby/client"
)

// dialer connects to the engine.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// tlsFiles are the certificates of the flags and of the environment.
type tlsFiles struct {
	verify        bool
	ca, cert, key string
}

// Connection is an engine that can be asked. Nothing is dialled before the
// first request.
type Connection struct {
	*client.Client
	Endpoint *Endpoint

	dialErr    error // the last dial that failed
	userAgent  string
	headers    map[string]string
	dialSocket func(ctx context.Context) (net.Conn, error) // of a local socket
	http       *http.Client                                // of Call; nil before the first
}

// Connect makes a client for the endpoint. The API version is negotiated with
// the first request, unless DOCKER_API_VERSION names one. more is for the client, too.
func (ep *Endpoint) Connect(userAgent string, headers map[string]string, more ...client.Opt) (*Connection, error) {
	c := &Connection{Endpoint: ep, userAgent: userAgent, headers: headers}
	opts, err := ep.options(c)
	if err != nil {
		return nil, err
	}
	if len(headers) > 0 {
		opts = append(opts, client.WithHTTPHeaders(headers))
	}
	opts = append(opts, client.WithUserAgent(userAgent), client.WithAPIVersionFromEnv())
	opts = append(opts, more...)
	if c.Client, err = client.New(opts...); err != nil {
		return nil, fmt.Errorf("the address %s of the daemon: %w", ep.Host, err)
	}
	return c, nil
}

func (ep *Endpoint) options(c *Connection) ([]client.Opt, error) {
	switch {
	case ep.remote != nil:
		transport := &http.Transport{DialContext: c.remember(ep.remote)}
		return []client.Opt{
			client.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}),
			client.WithHost("http://hezi.example.com"),
			client.WithDialContext(c.remember(ep.remote)),
		}, nil
	case isSocket(ep.Host):
		path := strings.TrimPrefix(ep.Host, "unix://")
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		transport := &socketTransport{dial: c.remember(dial)}
		c.dialSocket = func(ctx context.Context) (net.Conn, error) { return transport.dial(ctx, "unix", path) }
		c.http = &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
		return []client.Opt{client.WithHost(ep.Host), client.WithHTTPClient(c.http)}, nil
	case ep.stored != nil:
		return ep.stored.ClientOpts()
	}
	d := net.Dialer{KeepAlive: 30 * time.Second, Timeout: 30 * time.Second}
	dial := c.remember(func(ctx context.Context, _, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) })
	opts := []client.Opt{client.WithHost(ep.Host), client.WithDialContext(dial)}
	if ep.tls == nil {
		return opts, nil
	}
	httpClient, err := ep.tls.client()
	if err != nil {
		return nil, err
	}
	return append([]client.Opt{client.WithHTTPClient(httpClient)}, opts...), nil
}

// remember keeps the reason of a failed dial, which the client's own error
// does not always hold.
func (c *Connection) remember(dial dialer) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			c.dialErr = err
		}
		return conn, err
	}
}

// client speaks TLS with the files.
func (t *tlsFiles) client() (*http.Client, error) {
	opts := tlsconfig.Options{CAFile: t.ca, CertFile: t.cert, KeyFile: t.key, InsecureSkipVerify: !t.verify, ExclusiveRootPools: true}
	cfg, err := tlsconfig.Client(opts)
	if err != nil {
		return nil, fmt.Errorf("TLS towards the daemon: %w", err)
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: cfg},
		CheckRedirect: client.CheckRedirect,
	}, nil
}

// Dial opens one raw connection to the engine, for `system dial-stdio`.
func (c *Connection) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := c.Dialer()(ctx)
	if err != nil && c.dialErr == nil {
		c.dialErr = err
	}
	return conn, err
}

// remoteCommand speaks to whichever engine the other machine has.
const remoteCommand = `if command -v hezi >/dev/null 2>&1; then exec hezi "$@"; else exec docker "$@"; fi`

// checkSSH prepares `ssh HOST hezi system dial-stdio`, whose stdin and stdout
// then are the connection.
func (ep *Endpoint) checkSSH() error {
	u, err := url.Parse(ep.Host)
	if err != nil {
		return fmt.Errorf("the address %q of the daemon: %w", ep.Host, err)
	}
	spec, err := ssh.NewSpec(u)
	if err != nil {
		return fmt.Errorf("the address %q of the daemon: %w; write ssh://user@host[:port]", ep.Host, err)
	}
	command := []string{"sh", "-c", remoteCommand, "hezi"}
	if strings.Trim(spec.Path, "/") != "" {
		command = append(command, "--host=unix://"+spec.Path)
	}
	args, err := spec.Command([]string{"-o ConnectTimeout=30", "-T"}, append(command, "system", "dial-stdio")...)
	if err != nil {
		return fmt.Errorf("the address %q of the daemon: %w", ep.Host, err)
	}
	program := os.Getenv("HEZI_SSH")
	if program == "" {
		program = "ssh"
	}
	ep.remote = func(ctx context.Context, _, _ string) (net.Conn, error) {
		// The connection outlives the request that opened it.
		return commandconn.New(context.WithoutCancel(ctx), program, args...)
	}
	return nil
}
