package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newPush(a *App) *cobra.Command {
	var all, quiet bool
	var platform string
	cmd := &cobra.Command{Use: "[OPTIONS] NAME[:TAG]", Args: exactArgs(1), ValidArgsFunction: completeImages(a, 1)}
	f := cmd.Flags()
	f.BoolVarP(&all, "all-tags", "a", false, "Push all tags of an image to the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	f.Bool("disable-content-trust", true, "Skip image verification (deprecated)")
	_ = f.MarkDeprecated("disable-content-trust", "support for docker content trust was removed") // the flag exists
	// DOCKER_DEFAULT_PLATFORM is no default here: an image is pushed as it is.
	f.StringVar(&platform, "platform", "", `Push a platform-specific manifest as a single-platform image to the registry.
Image index won't be pushed, meaning that other manifests, including attestations won't be preserved.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		o := client.ImagePushOptions{All: all}
		if platform != "" {
			p, err := parsePlatform(platform)
			if err != nil {
				return err
			}
			o.Platform = &p
			note(a, "Using --platform pushes only the specified platform manifest of a multi-platform image index.\nOther components, like attestations, will not be included.\nTo push the complete multi-platform image, remove the --platform flag.\n")
		}
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
		if o.RegistryAuth, err = a.authFor(ref.String()); err != nil {
			return err
		}
		body, err := engine.ImagePush(ctx, reference.FamiliarString(ref), o)
		if err != nil {
			return err
		}
		defer body.Close()
		out := a.Out
		if quiet {
			out = nil
		}
		var notes []string
		err = progress(ctx, body, out, func(m jsonstream.Message) { notes = append(notes, pushNote(m)...) })
		if err == nil && quiet {
			a.println(ref.String())
		}
		for _, n := range notes {
			note(a, n)
		}
		return err
	})
	return cmd
}

// pushNote is what a message for programs means to people.
func pushNote(m jsonstream.Message) []string {
	var instead auxprogress.ManifestPushedInsteadOfIndex
	if json.Unmarshal(*m.Aux, &instead) == nil && instead.ManifestPushedInsteadOfIndex {
		return []string{fmt.Sprintf("Not all multiplatform-content is present and only the available single-platform image was pushed\n%s -> %s",
			instead.OriginalIndex.Digest, instead.SelectedManifest.Digest)}
	}
	var missing auxprogress.ContentMissing
	if json.Unmarshal(*m.Aux, &missing) == nil && missing.ContentMissing {
		return []string{"You're trying to push a manifest list/index which references multiple platform specific manifests, but not all of them are available locally or available to the remote repository.\n" +
			"Make sure you have all the referenced content and try again.\n" +
			"You can also push only a single platform specific manifest directly by specifying the platform you want to push with the --platform flag."}
	}
	return nil
}

// note prints a remark as Docker's client does.
func note(a *App, text string) {
	const header = " Info -> "
	a.println("\n" + header + strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", len(header))))
}
