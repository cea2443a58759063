package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"

	"hezi/internal/daemon/config"
	"hezi/internal/version"
)

// hubRegistry is where Docker Hub answers; its names are many.
const hubRegistry = "registry-1.docker.io"

// Login answers POST /auth: it asks the registry whether it takes the
// credentials. They are not kept: the client keeps them.
func (s *systemRoom) Login(ctx context.Context, auth registry.AuthConfig) (registry.AuthResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	host := registryHost(auth.ServerAddress)
	insecure := isInsecure(s.conf(), host)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if insecure {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for by insecure-registries
	}
	client := &http.Client{Transport: transport}
	err := login(ctx, client, "https://"+host, auth)
	if err != nil && insecure && !errdefs.IsUnauthorized(err) && ctx.Err() == nil {
		err = login(ctx, client, "http://"+host, auth)
	}
	if err != nil {
		return registry.AuthResponse{}, err
	}
	return registry.AuthResponse{Status: "Login Succeeded", IdentityToken: auth.IdentityToken}, nil
}

// login asks the registry's front page, answers its challenge, and asks again.
func login(ctx context.Context, client *http.Client, base string, auth registry.AuthConfig) error {
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(func(string) (string, string, error) {
		if auth.IdentityToken != "" {
			return "", auth.IdentityToken, nil
		}
		return auth.Username, auth.Password, nil
	}))
	resp, err := frontPage(ctx, client, base, authorizer)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		if err := authorizer.AddResponses(ctx, []*http.Response{resp}); err != nil {
			return fmt.Errorf("the registry %s asks for a login in a way that is not understood: %w", base, err)
		}
		if resp, err = frontPage(ctx, client, base, authorizer); err != nil {
			return err
		}
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("unauthorized: the registry %s refuses this user name and password", base))
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the registry %s answered %s to GET /v2/: is it a registry?", base, resp.Status))
}

func frontPage(ctx context.Context, client *http.Client, base string, authorizer docker.Authorizer) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v2/", nil)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is no registry's address", base))
	}
	req.Header.Set("User-Agent", "hezi/"+version.Version)
	if err := authorizer.Authorize(ctx, req); err != nil {
		if status, ok := errors.AsType[remoteserrors.ErrUnexpectedStatus](err); ok && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden) {
			return nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("unauthorized: the registry %s refuses this user name and password", base))
		}
		return nil, fmt.Errorf("log in to %s: %w", base, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the registry cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	return resp, err
}

// registryHost is the host of a server address as clients write it.
func registryHost(addr string) string {
	addr = strings.TrimPrefix(strings.TrimPrefix(addr, "https://"), "http://")
	addr, _, _ = strings.Cut(addr, "/")
	switch addr {
	case "", "docker.io", "index.docker.io", "registry.docker.io", "registry-1.docker.io":
		return hubRegistry
	}
	return addr
}

// isInsecure says whether plain HTTP or an unknown certificate will do:
// loopback, and what insecure-registries names.
func isInsecure(c *config.Config, host string) bool {
	if slices.Contains(c.InsecureRegistries, host) {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" || slices.Contains(c.InsecureRegistries, name) {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	if err != nil {
		return false
	}
	return ip.IsLoopback() || slices.ContainsFunc(c.InsecureRegistries, func(r string) bool {
		p, err := netip.ParsePrefix(r)
		return err == nil && p.Contains(ip)
	})
}
