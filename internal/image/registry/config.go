// Package registry speaks the OCI distribution protocol to registries and
// their mirrors: it finds out what a reference names and fetches blobs.
//
// Which host is asked, in which order, with which credentials and over which
// scheme is decided in one place (hosts.go):
//
//	mirrors of the registry, in the order of the configuration
//	-> the registry itself
//	-> mirrors that failed in the last minutes
//
// Credentials that the user gave go to the registry itself and to the token
// server it names, never to a mirror, to a redirect's target or to a foreign
// URL. Every wait has a limit of its own (connecting, TLS, the header of an
// answer, silence in a body), so nothing hangs, and there is no limit on the
// whole, so slow lines finish.
package registry

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Docker's defaults for what Config leaves at 0.
const (
	DefaultMaxDownloads = 3
	DefaultMaxUploads   = 5
	DefaultMaxAttempts  = 5
	DefaultPatience     = 30 * time.Second
)

// Config is the part of daemon.json that concerns registries.
type Config struct {
	// Mirrors of docker.io, as URLs, in the order they are asked.
	Mirrors []string
	// Insecure names registries that may be spoken to over plain HTTP or with
	// a certificate nobody vouches for: host, host:port or CIDR. Loopback
	// addresses always may.
	Insecure []string
	// MaxDownloads is how many layers the daemon downloads at once, over all
	// pulls; 0 is DefaultMaxDownloads.
	MaxDownloads int
	// MaxUploads is the same for pushes; 0 is DefaultMaxUploads.
	MaxUploads int
	// MaxAttempts is how often a download is tried; 0 is DefaultMaxAttempts.
	MaxAttempts int
	// CertDirs hold a folder HOST or HOST:PORT for each registry that needs
	// certificates of its own: *.crt authorities, *.cert and *.key the
	// client's. The first directory that has the host's folder counts. nil is
	// /etc/hezi/certs.d, then /etc/docker/certs.d.
	CertDirs []string
	// Hub is the host that serves docker.io; "" is Docker's.
	Hub string
	// Patience is how long a registry may be silent; 0 is DefaultPatience.
	Patience time.Duration
}

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	_, err := parse(c)
	return err
}

// settings are a Config as it is used.
type settings struct {
	mirrors      []*url.URL
	nets         []netip.Prefix
	hosts        map[string]struct{} // insecure, as host or host:port, lower case
	maxDownloads int
	maxUploads   int
	maxAttempts  int
	patience     time.Duration
	hub          string
	certDirs     []string
}

func parse(c Config) (*settings, error) {
	s := &settings{hosts: make(map[string]struct{}), maxDownloads: c.MaxDownloads, maxUploads: c.MaxUploads, maxAttempts: c.MaxAttempts, patience: c.Patience, hub: c.Hub, certDirs: c.CertDirs}
	if s.certDirs == nil {
		s.certDirs = []string{"/etc/hezi/certs.d", "/etc/docker/certs.d"}
	}
	if s.hub == "" {
		s.hub = "registry-1.docker.io"
	}
	if s.maxDownloads <= 0 {
		s.maxDownloads = DefaultMaxDownloads
	}
	if s.maxUploads <= 0 {
		s.maxUploads = DefaultMaxUploads
	}
	if s.maxAttempts <= 0 {
		s.maxAttempts = DefaultMaxAttempts
	}
	if s.patience <= 0 {
		s.patience = DefaultPatience
	}
	for _, m := range c.Mirrors {
		u, err := url.Parse(m)
		switch {
		case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid mirror: %q is not a URL that begins with https:// or http://", m))
		case u.RawQuery != "" || u.Fragment != "":
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid mirror: query or fragment at the end of %q", m))
		case u.User != nil:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid mirror: username/password not allowed in URI %q", u.Redacted()))
		}
		u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v2")
		s.mirrors = append(s.mirrors, u)
	}
	for _, i := range c.Insecure {
		if p, err := netip.ParsePrefix(i); err == nil {
			s.nets = append(s.nets, p)
			continue
		}
		if strings.Contains(i, "://") || strings.ContainsAny(i, "/ ") || i == "" {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("insecure registry %q is not valid: write HOST, HOST:PORT or a CIDR, without http:// and without a path", i))
		}
		s.hosts[strings.ToLower(i)] = struct{}{}
	}
	return s, nil
}

// insecure says whether host, perhaps with a port, may be spoken to without
// TLS that can be verified.
func (s *settings) insecure(host string) bool {
	host = strings.ToLower(host)
	if _, ok := s.hosts[host]; ok {
		return true
	}
	name := hostname(host)
	if _, ok := s.hosts[name]; ok {
		return true
	}
	if loopback(name) {
		return true
	}
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return false // names are not looked up: who answers DNS must not decide
	}
	for _, n := range s.nets {
		if n.Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

func loopback(name string) bool {
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}
