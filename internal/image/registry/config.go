// Package registry speaks the OCI distribution protocol to registries and
// their mirrors: it finds out what a reference names and fetches blobs.
//
// Which host is asked, in which order, with which credentials and over which
// scheme is decided in one place (endpoints.go):
//
//	mirrors of the registry, in the order of the configuration
//	-> the registry itself
//	-> mirrors that failed in the last minutes
//
// A pull that could not reach the registry itself asks it last from then on.
//
// The configuration is daemon.json's, unless the registry has a hosts.toml
// with hosts of its own (hoststoml.go).
//
// Credentials that the user gave go to the host they are for and to the token
// server it names, never to another: not to a mirror, to a redirect's target
// or to a foreign URL. Every wait has a limit of its own (connecting, TLS, the
// header of an answer, silence in a body), so nothing hangs, and there is no
// limit on the whole, so slow lines finish. Mirrors have shorter limits and
// must be faster, as long as others are left that can be asked.
package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"golang.org/x/net/http/httpproxy"
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
	// Mirrors of docker.io, in the order they are asked: URLs, or HOST[:PORT]
	// with or without a path, which are spoken to over HTTPS.
	Mirrors []string
	// MirrorsOf are the same for other registries, by host or host:port.
	MirrorsOf map[string][]string
	// Insecure names registries that may be spoken to over plain HTTP or with
	// a certificate nobody vouches for: host, host:port or CIDR. Loopback
	// addresses always may.
	Insecure []string
	// Proxy is whom to ask for the registries; what is empty is taken from
	// the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
	Proxy Proxy
	// MaxDownloads is how many layers the daemon downloads at once, over all
	// pulls; 0 is DefaultMaxDownloads.
	MaxDownloads int
	// MaxUploads is the same for pushes; 0 is DefaultMaxUploads.
	MaxUploads int
	// MaxAttempts is how often a download is tried; 0 is DefaultMaxAttempts.
	MaxAttempts int
	// CertDirs hold a folder for each registry that needs one; see hostDir.
	// nil is DefaultCertDirs.
	CertDirs []string
	// Hub is the host that serves docker.io; "" is Docker's.
	Hub string
	// HubIndex is the URL of docker.io's search; "" is Docker's.
	HubIndex string
	// Patience is how long a registry may be silent; 0 is DefaultPatience.
	Patience time.Duration
	// File is where the user sets all this, for messages; "" is
	// /etc/hezi/daemon.json.
	File string
}

// Proxy is an HTTP proxy as the environment has it.
type Proxy struct {
	HTTP, HTTPS string // URLs, or host:port
	No          string // hosts, domains and networks that are asked directly
}

// Environment completes p by the environment.
func (p Proxy) Environment() Proxy {
	env := httpproxy.FromEnvironment()
	return Proxy{HTTP: cmp.Or(p.HTTP, env.HTTPProxy), HTTPS: cmp.Or(p.HTTPS, env.HTTPSProxy), No: cmp.Or(p.No, env.NoProxy)}
}

// DefaultCertDirs are Hezi's, Docker's and containerd's.
func DefaultCertDirs() []string {
	return []string{"/etc/hezi/certs.d", "/etc/docker/certs.d", "/etc/containerd/certs.d"}
}

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	_, err := parse(c)
	return err
}

// settings are a Config as it is used.
type settings struct {
	mirrors      map[string][]mirror // by registry
	nets         []netip.Prefix
	hosts        map[string]struct{} // insecure, as host or host:port, lower case
	proxy        func(*url.URL) (*url.URL, error)
	maxDownloads int
	maxUploads   int
	maxAttempts  int
	patience     time.Duration
	hub          string
	hubIndex     string
	certDirs     []string
	file         string
}

// mirror is one entry of registry-mirrors.
type mirror struct {
	scheme string // "" was not written
	host   string
	path   string // before /v2
}

func parse(c Config) (*settings, error) {
	s := &settings{
		mirrors: make(map[string][]mirror), hosts: make(map[string]struct{}), certDirs: c.CertDirs,
		maxDownloads: cmp.Or(max(c.MaxDownloads, 0), DefaultMaxDownloads), maxUploads: cmp.Or(max(c.MaxUploads, 0), DefaultMaxUploads),
		maxAttempts: cmp.Or(max(c.MaxAttempts, 0), DefaultMaxAttempts), patience: cmp.Or(max(c.Patience, 0), DefaultPatience),
		hub: cmp.Or(c.Hub, "registry-1.docker.io"), hubIndex: cmp.Or(c.HubIndex, "https://index.docker.io"), file: cmp.Or(c.File, "/etc/hezi/daemon.json"),
	}
	if s.certDirs == nil {
		s.certDirs = DefaultCertDirs()
	}
	if err := s.addMirrors(hubName, c.Mirrors); err != nil {
		return nil, err
	}
	for _, host := range slices.Sorted(maps.Keys(c.MirrorsOf)) {
		of, err := registryName(host)
		if err != nil {
			return nil, err
		}
		if err := s.addMirrors(of, c.MirrorsOf[host]); err != nil {
			return nil, err
		}
	}
	for _, i := range c.Insecure {
		if err := s.addInsecure(i); err != nil {
			return nil, err
		}
	}
	return s, s.setProxy(c.Proxy)
}

// hubName is Docker Hub's in references.
const hubName = "docker.io"

// registryName checks a registry as references name it; Docker Hub has many
// names.
func registryName(host string) (string, error) {
	switch strings.ToLower(host) {
	case hubName, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return hubName, nil
	}
	ref, err := reference.ParseNormalizedNamed(host + "/x")
	if err != nil || reference.Domain(ref) != host {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a registry's name: write HOST or HOST:PORT, as in the names of its images", host))
	}
	return host, nil
}

func (s *settings) addMirrors(of string, list []string) error {
	for _, m := range list {
		parsed, err := parseMirror(m)
		if err != nil {
			return err
		}
		if !slices.Contains(s.mirrors[of], parsed) {
			s.mirrors[of] = append(s.mirrors[of], parsed)
		}
	}
	return nil
}

func parseMirror(text string) (mirror, error) {
	bad := func(format string, args ...any) (mirror, error) {
		return mirror{}, errdefs.ErrInvalidArgument.WithMessage("invalid mirror: " + fmt.Sprintf(format, args...))
	}
	full := text
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		text = "xxxxx" + text[i:] // what stands before may be a password
	}
	scheme, _, written := strings.Cut(full, "://")
	if !written {
		full = "https://" + full
	} else if scheme != "http" && scheme != "https" {
		return bad("unsupported scheme %q in %q: must use either 'https://' or 'http://'", scheme, text)
	}
	u, err := url.Parse(full)
	switch {
	case err != nil:
		return bad("%q is not a valid URI", text)
	case u.User != nil:
		return bad("username/password not allowed in URI %q", text)
	case u.RawQuery != "" || u.Fragment != "":
		return bad("query or fragment at end of the URI %q", text)
	}
	if err := checkHost(u.Host); err != nil {
		return bad("%q: %v", text, err)
	}
	m := mirror{host: u.Host, path: strings.TrimSuffix(strings.TrimRight(u.EscapedPath(), "/"), "/v2")}
	if written {
		m.scheme = scheme
	}
	return m, nil
}

// checkHost checks host, host:port or an IPv6 address, in brackets if there is
// a port.
func checkHost(host string) error {
	name, port := host, ""
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		return nil
	}
	if strings.HasPrefix(host, "[") || strings.Contains(host, ":") {
		if strings.HasSuffix(host, "]") {
			host += ":"
		}
		var err error
		if name, port, err = net.SplitHostPort(host); err != nil {
			return errors.New("host or host:port is needed")
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil {
		return fmt.Errorf("invalid port %q", port)
	}
	if ip, err := netip.ParseAddr(name); err == nil && ip.IsValid() {
		return nil
	}
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	}
	if name == "" || strings.ContainsFunc(name, bad) || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Trim(name, ".") == "" {
		return fmt.Errorf("invalid host %q", name)
	}
	return nil
}

func (s *settings) addInsecure(text string) error {
	entry := text
	if scheme, rest, ok := strings.Cut(text, "://"); ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
		entry = strings.TrimSuffix(rest, "/")
	}
	if p, err := netip.ParsePrefix(entry); err == nil {
		s.nets = append(s.nets, p.Masked())
		return nil
	}
	if err := checkHost(entry); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("insecure registry %s is not valid: %v: write HOST, HOST:PORT or a CIDR, without a path", text, err))
	}
	if _, _, err := net.SplitHostPort(entry); err != nil {
		entry = hostname(entry)
	}
	s.hosts[strings.ToLower(entry)] = struct{}{}
	return nil
}

func (s *settings) setProxy(p Proxy) error {
	p = p.Environment()
	for _, one := range []string{p.HTTP, p.HTTPS} {
		full := one
		if !strings.Contains(one, "://") {
			full = "http://" + one
		}
		u, err := url.Parse(full)
		switch {
		case one == "":
		case err != nil:
			return errdefs.ErrInvalidArgument.WithMessage("a proxy's address is no URL: write http://HOST:PORT") // with what may be a password
		case u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" && u.Scheme != "socks5h":
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the proxy %q cannot be used: write http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT", u.Redacted()))
		}
	}
	s.proxy = (&httpproxy.Config{HTTPProxy: p.HTTP, HTTPSProxy: p.HTTPS, NoProxy: p.No}).ProxyFunc()
	return nil
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
