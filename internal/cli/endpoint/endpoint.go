// Package endpoint finds the engine that a call of hezi talks to, connects to
// it, and explains a connection that fails.
//
// The address comes from the first of these that is set:
//
//	--host
//	--context
//	HEZI_HOST, DOCKER_HOST
//	DOCKER_CONTEXT
//	"currentContext" in config.json (~/.docker, or DOCKER_CONFIG, or --config)
//	unix:///run/hezi/hezi.sock
//
// Contexts are Docker's, in Docker's place, so that both clients share them.
// The context named "default" is the address without any context, with the TLS
// settings of the flags and of DOCKER_TLS, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
)

const (
	// DefaultHost is where hezid listens unless it is told otherwise.
	DefaultHost = "unix:///run/hezi/hezi.sock"
	// DefaultContext is the name of the address without a context.
	DefaultContext = "default"
)

// Flags are the global flags that say where the engine is. CertPath holds the
// files that the flags do not name.
type Flags struct {
	Host      string
	Context   string
	ConfigDir string // folder of config.json and of the contexts

	TLS       bool
	TLSVerify bool
	CACert    string
	Cert      string
	Key       string
}

// Endpoint is an engine's address, resolved but not yet dialled.
type Endpoint struct {
	Context string // the context it comes from, "default" without one
	Host    string // as Docker writes it, e.g. unix:///run/hezi/hezi.sock

	tls    *tlsFiles // files named by flags and environment
	stored *docker.Endpoint
	remote dialer // ssh
}

// Dialled is an engine that dial reaches; host is what it is called.
func Dialled(host string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Endpoint {
	return &Endpoint{Context: DefaultContext, Host: host, remote: dial}
}

// LoadConfig reads config.json of dir, or of the usual place when dir is empty.
// A missing file is an empty configuration.
func LoadConfig(dir string) (*configfile.ConfigFile, error) {
	if dir == "" {
		dir = config.Dir()
	}
	cfg, err := config.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use the configuration of the client: %w", err)
	}
	return cfg, nil
}

// Contexts opens the store of contexts beside the configuration file.
func Contexts(configDir string) *store.ContextStore {
	if configDir == "" {
		configDir = config.Dir()
	}
	cfg := store.NewConfig(nil, store.EndpointTypeGetter(docker.DockerEndpoint, func() any { return new(docker.EndpointMeta) }))
	return store.New(filepath.Join(configDir, "contexts"), cfg)
}

// ContextName says which context is used, without looking whether it exists.
func (f Flags) ContextName(cfg *configfile.ConfigFile) (string, error) {
	switch {
	case f.Host != "" && f.Context != "":
		return "", errors.New("conflicting options: cannot specify both --host and --context")
	case f.Context != "":
		return f.Context, nil
	case f.Host != "" || environmentHost() != "":
		return DefaultContext, nil
	case os.Getenv("DOCKER_CONTEXT") != "":
		return os.Getenv("DOCKER_CONTEXT"), nil
	case cfg != nil && cfg.CurrentContext != "":
		return cfg.CurrentContext, nil
	}
	return DefaultContext, nil
}

// environmentHost is the address that the environment names.
func environmentHost() string {
	if h := os.Getenv("HEZI_HOST"); h != "" {
		return h
	}
	return os.Getenv("DOCKER_HOST")
}

// Resolve finds the engine's address.
func (f Flags) Resolve(cfg *configfile.ConfigFile) (*Endpoint, error) {
	name, err := f.ContextName(cfg)
	if err != nil {
		return nil, err
	}
	if name == DefaultContext {
		return f.direct()
	}
	contexts := Contexts(f.ConfigDir)
	meta, err := contexts.GetMetadata(name)
	if err != nil {
		return nil, fmt.Errorf("%w\nList the contexts with: hezi context ls", err)
	}
	base, err := docker.EndpointFromContext(meta)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	ep := &Endpoint{Context: name, Host: base.Host}
	if ep.Host == "" {
		ep.Host = DefaultHost
	}
	if !isSocket(ep.Host) {
		stored, err := docker.WithTLSData(contexts, name, base)
		if err != nil {
			return nil, fmt.Errorf("context %q: %w", name, err)
		}
		ep.stored = &stored
	}
	return ep, ep.check()
}

// direct is the address of flags and environment.
func (f Flags) direct() (*Endpoint, error) {
	ep := &Endpoint{Context: DefaultContext, Host: f.Host}
	if ep.Host == "" {
		ep.Host = environmentHost()
	}
	if ep.Host == "" {
		ep.Host = DefaultHost
	}
	host, err := normalise(ep.Host, f.TLS || f.TLSVerify)
	if err != nil {
		return nil, err
	}
	ep.Host = host
	if f.TLS || f.TLSVerify {
		ep.tls = &tlsFiles{verify: f.TLSVerify, ca: f.CACert, cert: f.Cert, key: f.Key}
	}
	return ep, ep.check()
}

// DefaultAddress is the address that the default context stands for.
func DefaultAddress() string {
	if h := environmentHost(); h != "" {
		return h
	}
	return DefaultHost
}

// normalise completes an address as Docker does: a bare path or host is
// understood, tcp without a port gets the usual one.
func normalise(host string, tls bool) (string, error) {
	host = strings.TrimSpace(host)
	proto, addr, ok := strings.Cut(host, "://")
	if !ok {
		if strings.HasPrefix(host, "/") {
			return "unix://" + host, nil
		}
		proto, addr = "tcp", host
	}
	switch proto {
	case "unix":
		if addr == "" {
			return DefaultHost, nil
		}
		return "unix://" + addr, nil
	case "ssh", "http", "https":
		return host, nil
	case "tcp":
		return "tcp://" + withPort(addr, tls), nil
	case "fd":
		return "", fmt.Errorf("fd:// in %q is for hezid only; a client needs unix://, tcp:// or ssh://", host)
	}
	return "", fmt.Errorf("the address %q of the daemon is not understood: write unix:///path/to/socket, tcp://host:port or ssh://user@host", host)
}

// withPort adds host and port where addr has none: 2375, or 2376 with TLS.
func withPort(addr string, tls bool) string {
	port := "2375"
	if tls {
		port = "2376"
	}
	addr, path, hasPath := strings.Cut(addr, "/")
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		host, p = strings.Trim(addr, "[]"), ""
	}
	if host == "" {
		host = "localhost"
	}
	if p == "" {
		p = port
	}
	addr = net.JoinHostPort(host, p)
	if hasPath {
		addr += "/" + path
	}
	return addr
}

func isSocket(host string) bool { return strings.HasPrefix(host, "unix://") }

// check prepares what can be wrong about the address itself.
func (ep *Endpoint) check() error {
	if strings.HasPrefix(ep.Host, "ssh://") {
		return ep.checkSSH()
	}
	return nil
}
