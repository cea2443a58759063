package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// transport is how a host is spoken to. A host with a folder of its own in one
// of the CertDirs is trusted by the authorities there too (*.crt), and shown
// the client certificates there (*.cert with *.key), as Docker does.
func (g *generation) transport(host string, lax bool) (*http.Transport, error) {
	plain := g.strict
	if lax {
		plain = g.lax
	}
	var dir, state string
	var files []fs.DirEntry
	for _, d := range g.certDirs {
		list, err := os.ReadDir(filepath.Join(d, host))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the certificates for %s: %w", host, err)
		}
		dir, files = filepath.Join(d, host), list
		break
	}
	if dir == "" {
		return plain, nil
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			state += fmt.Sprint(f.Name(), info.Size(), info.ModTime().UnixNano())
		}
	}
	key := fmt.Sprint(dir, lax, state)
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.own[key]; t != nil {
		return t, nil
	}
	t := plain.Clone()
	if err := trust(t.TLSClientConfig, dir, files); err != nil {
		return nil, err
	}
	if g.own == nil {
		g.own = make(map[string]*http.Transport)
	}
	g.own[key] = t
	return t, nil
}

// trust reads the certificates of one host.
func trust(c *tls.Config, dir string, files []fs.DirEntry) error {
	bad := func(name string, err error) error {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("certificate %s cannot be used: %v", filepath.Join(dir, name), err))
	}
	for _, f := range files {
		name := f.Name()
		switch filepath.Ext(name) {
		case ".crt":
			pem, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return bad(name, err)
			}
			if c.RootCAs == nil {
				if c.RootCAs, err = x509.SystemCertPool(); err != nil {
					c.RootCAs = x509.NewCertPool()
				}
			}
			if !c.RootCAs.AppendCertsFromPEM(pem) {
				return bad(name, errors.New("it holds no certificate in PEM"))
			}
		case ".cert":
			key := strings.TrimSuffix(name, ".cert") + ".key"
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name), filepath.Join(dir, key))
			if err != nil {
				return bad(name, fmt.Errorf("with key %s: %w", key, err))
			}
			c.Certificates = append(c.Certificates, pair)
		}
	}
	return nil
}
