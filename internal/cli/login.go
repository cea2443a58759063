package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/moby/client"
	mobyterm "github.com/moby/term"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
)

// hubServer is the name of Docker Hub in the configuration.
const hubServer = "https://index.docker.io/v1/"

func newLogin(a *App) *cobra.Command {
	var user, password string
	var fromStdin bool
	cmd := &cobra.Command{
		Use: "[OPTIONS] [SERVER]", Args: maxArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
	}
	f := cmd.Flags()
	f.StringVarP(&user, "username", "u", "", "Username")
	f.StringVarP(&password, "password", "p", "", `Password or Personal Access Token (PAT), or "-" to read from stdin`)
	f.BoolVar(&fromStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		switch {
		case fromStdin && f.Changed("password") && password != "-":
			return errors.New("conflicting options: cannot specify both --password and --password-stdin")
		case f.Changed("username") && strings.TrimSpace(user) == "":
			return errors.New("username is empty")
		case f.Changed("password") && password == "":
			return errors.New("password is empty")
		case (fromStdin || password == "-") && user == "":
			return errors.New("the --password-stdin option requires --username to be set")
		}
		if fromStdin || password == "-" {
			secret, err := io.ReadAll(io.LimitReader(a.In, 1<<20))
			if err != nil {
				return err
			}
			if password = trimLineEnd(string(secret)); strings.TrimSpace(password) == "" {
				return errors.New("password is empty")
			}
		} else if password != "" {
			a.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
		}
		warnOfEnvironment(a)
		server := hubServer
		if len(args) == 1 && args[0] != "docker.io" {
			server = hostname(args[0])
		}
		return registryLogin{a, engine, server}.run(ctx, user, password)
	})
	return cmd
}

// registryLogin is a login at one server.
type registryLogin struct {
	*App
	engine *endpoint.Connection
	server string
}

// run proves the credentials by the engine and stores them. Those that are
// stored already are tried when none are given.
func (a registryLogin) run(ctx context.Context, user, password string) error {
	known := ""
	if user == "" && password == "" {
		stored, err := a.config.GetAuthConfig(a.server)
		if err == nil && stored.Username != "" && (stored.Password != "" || stored.IdentityToken != "") {
			a.warn(fmt.Sprintf("Authenticating with existing credentials... [Username: %s]\nTo login with a different account, run 'hezi logout' followed by 'hezi login'\n", stored.Username))
			auth := types.AuthConfig{Username: stored.Username, Password: stored.Password, ServerAddress: a.server, IdentityToken: stored.IdentityToken}
			if err := a.authenticate(ctx, auth); err == nil {
				return nil
			} else if ctx.Err() != nil {
				return ctx.Err()
			} else if errdefs.IsUnauthorized(err) {
				a.warn("Stored credentials invalid or expired")
			} else {
				a.warn("Login did not succeed, error:", err)
			}
			known = stored.Username
		}
	}
	user, password, err := a.askCredentials(ctx, user, password, known)
	if err != nil {
		return err
	}
	return a.authenticate(ctx, types.AuthConfig{Username: user, Password: password, ServerAddress: a.server})
}

func (a registryLogin) authenticate(ctx context.Context, auth types.AuthConfig) error {
	res, err := a.engine.RegistryLogin(ctx, client.RegistryLoginOptions{Username: auth.Username, Password: auth.Password, ServerAddress: auth.ServerAddress, IdentityToken: auth.IdentityToken})
	if err != nil {
		return err
	}
	if res.Auth.IdentityToken != "" {
		auth.Password, auth.IdentityToken = "", res.Auth.IdentityToken
	}
	if err := a.config.GetCredentialsStore(auth.ServerAddress).Store(auth); err != nil {
		return fmt.Errorf("error saving credentials: %w", err)
	}
	if res.Auth.Status != "" {
		a.println(res.Auth.Status)
	}
	return nil
}

// askCredentials asks on the terminal for what is missing; known is the user
// who is meant if none is named.
func (a registryLogin) askCredentials(ctx context.Context, user, password, known string) (string, string, error) {
	if (user == "" || password == "") && !term.IsTerminal(a.In) {
		return "", "", errors.New("error: cannot perform an interactive login from a non-TTY device: give --username and --password-stdin")
	}
	in := bufio.NewReader(a.In)
	var err error
	if user == "" {
		if a.server == hubServer {
			a.println("Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have a Docker ID, head over to https://hub.docker.com/ to create one.")
			a.println("You can log in with your password or a Personal Access Token (PAT). Using a limited-scope PAT grants better security and is required for organizations using SSO. Learn more at https://docs.docker.com/go/access-tokens/")
			a.println()
		}
		question := "Username: "
		if known != "" {
			question = fmt.Sprintf("Username (%s): ", known)
		}
		if user, err = a.ask(ctx, in, question); err != nil {
			return "", "", err
		}
		if user == "" {
			user = known
		}
		if user == "" {
			return "", "", errors.New("error: username is required")
		}
	}
	if password == "" {
		state, err := mobyterm.SaveState(a.In.Fd())
		if err != nil {
			return "", "", err
		}
		a.catchSignals()
		if err := mobyterm.DisableEcho(a.In.Fd(), state); err != nil {
			return "", "", err
		}
		password, err = a.ask(ctx, in, "Password: ")
		_ = mobyterm.RestoreTerminal(a.In.Fd(), state) // a terminal that is gone needs nothing
		a.println()
		if err != nil {
			return "", "", err
		}
		if password == "" {
			return "", "", errors.New("error: password is required")
		}
	}
	return user, password, nil
}

// warnOfEnvironment tells that what is stored is not what is used.
func warnOfEnvironment(a *App) {
	if os.Getenv(configfile.DockerEnvConfigKey) != "" {
		a.warn(fmt.Sprintf("WARNING: %[1]s is set and takes precedence.\nUnset %[1]s to restore the CLI auth behaviour.", configfile.DockerEnvConfigKey))
	}
}

// ask reads one line, or ends with the context.
func (a registryLogin) ask(ctx context.Context, in *bufio.Reader, question string) (string, error) {
	fmt.Fprint(a.Out, question)
	line := make(chan string, 1)
	go func() {
		s, _ := in.ReadString('\n') // no line is an empty answer
		line <- strings.TrimSpace(s)
	}()
	select {
	case s := <-line:
		return s, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// trimLineEnd takes one line ending away, and no other white space.
func trimLineEnd(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return strings.TrimSuffix(s, "\r")
}

// hostname is a server's name without scheme and path.
func hostname(server string) string {
	_, rest, ok := strings.Cut(server, "://")
	if !ok {
		rest = server
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}
