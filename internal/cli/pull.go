package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/jsonmessage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
)

func newPull(a *App) *cobra.Command {
	var all, quiet bool
	cmd := &cobra.Command{Use: "[OPTIONS] NAME[:TAG|@DIGEST]", Args: exactArgs(1), ValidArgsFunction: completeImages(a, 1)}
	f := cmd.Flags()
	f.BoolVarP(&all, "all-tags", "a", false, "Download all tagged images in the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	f.Bool("disable-content-trust", true, "Skip image verification (deprecated)")
	_ = f.MarkDeprecated("disable-content-trust", "support for docker content trust was removed") // the flag exists
	platform := platformFlag(f)
	cmd.RunE = a.run(func(ctx context.Context, _ *endpoint.Connection, args []string) error {
		ref, err := reference.ParseNormalizedNamed(args[0])
		switch {
		case err != nil:
			return imageError(args[0], err)
		case all && !reference.IsNameOnly(ref):
			return errors.New("tag can't be used with --all-tags/-a")
		case !all && reference.IsNameOnly(ref):
			ref = reference.TagNameOnly(ref)
			if tagged, ok := ref.(reference.Tagged); ok && !quiet {
				a.println("Using default tag:", tagged.Tag())
			}
		}
		platforms, err := platformList(*platform)
		if err != nil {
			return err
		}
		if err := a.pull(ctx, reference.FamiliarString(ref), pullOptions{platforms: platforms, quiet: quiet, all: all}, a.Out); err != nil {
			return err
		}
		a.println(ref.String())
		return nil
	})
	return cmd
}

type pullOptions struct {
	platforms  []ocispec.Platform
	quiet, all bool
}

// pull asks the engine to pull, with the credentials for the registry, and
// shows the progress.
func (a *App) pull(ctx context.Context, image string, o pullOptions, out *os.File) error {
	auth, err := a.authFor(image)
	if err != nil {
		return err
	}
	body, err := a.engine.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth, All: o.all, Platforms: o.platforms})
	if err != nil {
		return err
	}
	defer body.Close()
	if o.quiet {
		out = nil
	}
	return progress(ctx, body, out)
}

// authFor encodes the credentials for an image's registry.
func (a *App) authFor(image string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", imageError(image, err)
	}
	server := reference.Domain(ref)
	if server == "docker.io" {
		server = hubServer
	}
	auth, err := a.config.GetAuthConfig(server)
	if err != nil {
		return "", fmt.Errorf("the credentials for %s: %w", server, err)
	}
	return authconfig.Encode(registry.AuthConfig{
		Username: auth.Username, Password: auth.Password, ServerAddress: auth.ServerAddress,
		Auth: auth.Auth, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	})
}

// progress shows a stream of messages: on a terminal one line for each layer,
// else each change. A nil out shows nothing but returns the stream's error. aux
// is told what is for programs.
func progress(ctx context.Context, body io.Reader, out *os.File, aux ...func(jsonstream.Message)) error {
	stop := context.AfterFunc(ctx, func() {
		if c, ok := body.(io.Closer); ok {
			c.Close()
		}
	})
	defer stop()
	var tell func(jsonstream.Message)
	if len(aux) > 0 {
		tell = aux[0]
	}
	var err error
	if out == nil {
		err = jsonmessage.DisplayJSONMessagesStream(body, io.Discard, 0, false, tell)
	} else {
		err = jsonmessage.DisplayJSONMessagesStream(body, out, out.Fd(), term.IsTerminal(out), tell)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
