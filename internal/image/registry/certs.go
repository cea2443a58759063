package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// reach is how a host is spoken to.
type reach struct {
	host        string
	lax         bool // certificates are not verified
	dial        time.Duration
	authorities []string // files in PEM beside those of the host's folder
	client      [][2]string
}

// dialler leads each request to its host with that host's certificates: a
// redirect, or a token server, may lead elsewhere.
type dialler struct {
	gen *generation
	ep  *endpoint
}

func (d dialler) RoundTrip(req *http.Request) (*http.Response, error) {
	r := reach{host: req.URL.Host, lax: d.gen.insecure(req.URL.Host), dial: min(d.gen.patience, maxConnect)}
	if strings.EqualFold(req.URL.Host, d.ep.host) {
		r = d.ep.reach(d.gen.settings)
	}
	t, err := d.gen.transport(r)
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(req)
}

// certFiles are what a host is trusted by and shown.
type certFiles struct {
	dir         string // the host's folder; "" is none
	authorities []string
	client      [][2]string
}

// certificates of a host: those of its folder in the CertDirs (*.crt are
// authorities, *.cert with *.key the client's, as Docker has them) and those
// that a hosts.toml names.
func (g *generation) certificates(r reach) (certFiles, error) {
	c := certFiles{authorities: r.authorities, client: r.client}
	dir, err := hostDir(g.certDirs, r.host)
	if dir == "" || err != nil {
		return c, err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return c, fmt.Errorf("read the certificates for %s: %w", r.host, err)
	}
	c.dir = dir
	for _, f := range list {
		name := filepath.Join(dir, f.Name())
		switch filepath.Ext(name) {
		case ".crt":
			c.authorities = append(c.authorities[:len(c.authorities):len(c.authorities)], name)
		case ".cert":
			c.client = append(c.client[:len(c.client):len(c.client)], [2]string{name, strings.TrimSuffix(name, ".cert") + ".key"})
		}
	}
	return c, nil
}

// state changes when the files do.
func (c certFiles) state() string {
	var b strings.Builder
	note := func(name string) {
		st, err := os.Stat(name)
		if err != nil {
			fmt.Fprint(&b, name, "-;")
			return
		}
		fmt.Fprint(&b, name, st.Size(), st.ModTime().UnixNano(), ";")
	}
	for _, a := range c.authorities {
		note(a)
	}
	for _, p := range c.client {
		note(p[0])
		note(p[1])
	}
	return b.String()
}

// transport speaks to a host. Those with the same needs share one.
func (g *generation) transport(r reach) (*http.Transport, error) {
	files, err := g.certificates(r)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprint(r.lax, r.dial, files.state())
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.transports[key]; t != nil {
		return t, nil
	}
	t := g.newTransport(r.lax, r.dial)
	if err := files.load(t.TLSClientConfig); err != nil {
		return nil, err
	}
	if g.transports == nil {
		g.transports = make(map[string]*http.Transport)
	}
	g.transports[key] = t
	return t, nil
}

// newTransport has a limit for each wait. It does not ask for compression: a
// blob is wanted byte by byte as its digest knows it.
func (g *generation) newTransport(lax bool, dial time.Duration) *http.Transport {
	connect := (&net.Dialer{Timeout: dial, KeepAlive: 30 * time.Second}).DialContext
	if g.connect != nil {
		connect = g.connect
	}
	return &http.Transport{
		Proxy:                  func(req *http.Request) (*url.URL, error) { return g.proxy(req.URL) },
		DialContext:            connect,
		TLSHandshakeTimeout:    dial,
		ResponseHeaderTimeout:  g.patience,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &proxyRefused{proxy.Redacted(), resp.Status}
			}
			return nil
		},
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: lax}, //nolint:gosec // lax is for registries the user called insecure
	}
}

// load reads the files.
func (c certFiles) load(t *tls.Config) error {
	bad := func(name string, err error) error {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("certificate %s cannot be used: %v", name, err))
	}
	for _, name := range c.authorities {
		pem, err := os.ReadFile(name)
		if err != nil {
			return bad(name, plainFile(err))
		}
		if t.RootCAs == nil {
			if t.RootCAs, err = x509.SystemCertPool(); err != nil {
				t.RootCAs = x509.NewCertPool()
			}
		}
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return bad(name, errors.New("it holds no certificate in PEM"))
		}
	}
	for _, p := range c.client {
		pair, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil && p[0] != p[1] {
			err = fmt.Errorf("with key %s: %w", p[1], plainFile(err))
		}
		if err != nil {
			return bad(p[0], err)
		}
		t.Certificates = append(t.Certificates, pair)
	}
	return nil
}

// plainFile leaves the file's name out of an error that names it beside.
func plainFile(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
