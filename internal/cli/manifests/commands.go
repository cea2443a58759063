package manifests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

// Client is what the commands need of the command line.
type Client struct {
	Out *os.File
	// Engine connects; commands on what is here only do not call it.
	Engine func(context.Context) (*endpoint.Connection, error)
	// Auth encodes the credentials for an image's registry.
	Auth func(image string) (string, error)
	// Args checks the number of arguments; at most -1 is any.
	Args func(least, most int) cobra.PositionalArgs
}

func (c Client) store() store { return store{root: filepath.Join(config.Dir(), "manifests")} }

func (c Client) println(v ...any) { fmt.Fprintln(c.Out, v...) }

// parse reads a name; without a tag or a digest it is :latest.
func parse(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", err, name)
	}
	if _, digested := ref.(reference.Canonical); digested {
		return ref, nil
	}
	return reference.TagNameOnly(ref), nil
}

// remote is a manifest as hezid answers it.
type remote struct {
	Ref        string
	Descriptor ocispec.Descriptor
	Raw        []byte
	Manifests  []remote
}

const insecureHelp = "Allow communication with an insecure registry"

// ask sends one request of ours for a registry.
func (c Client) ask(ctx context.Context, about reference.Named, command string, insecure bool, send func(*endpoint.Connection, url.Values, http.Header) error) error {
	engine, err := c.Engine(ctx)
	if err != nil {
		return err
	}
	auth, err := c.Auth(about.String())
	if err != nil {
		return err
	}
	q := url.Values{"name": {about.String()}}
	if insecure {
		q.Set("insecure", "1")
	}
	err = send(engine, q, http.Header{registry.AuthHeader: {auth}})
	if err != nil && !insecure && strings.Contains(err.Error(), "insecure-registries") {
		return fmt.Errorf("%w; or write --insecure", err)
	}
	if errors.Is(err, endpoint.ErrNotHezi) {
		return fmt.Errorf("hezi manifest %s: %w: hezid is needed, for it speaks to registries in the client's stead: set HEZI_HOST to one, or use docker manifest %s, which works on the same lists", command, err, command)
	}
	return err
}

// fetch reads what a name means at its registry.
func (c Client) fetch(ctx context.Context, ref reference.Named, command string, insecure, all bool) (m remote, err error) {
	err = c.ask(ctx, ref, command, insecure, func(engine *endpoint.Connection, q url.Values, h http.Header) error {
		if all {
			q.Set("all", "1")
		}
		_, err := engine.GetOwn(ctx, "/hezi/manifest", q, h, &m)
		return err
	})
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("no such manifest: %s: %w", ref, err)
	}
	return m, err
}

// Create is `manifest create`.
func Create(c Client) *cobra.Command {
	var amend, insecure bool
	cmd := &cobra.Command{Use: "MANIFEST_LIST MANIFEST [MANIFEST...]", Args: c.Args(2, -1)}
	cmd.Flags().BoolVar(&insecure, "insecure", false, insecureHelp)
	cmd.Flags().BoolVarP(&amend, "amend", "a", false, "Amend an existing manifest list")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list, err := parse(args[0])
		if err != nil {
			return fmt.Errorf("error parsing name for manifest list %s: %w", args[0], err)
		}
		s := c.store()
		_, err = s.all(list)
		switch {
		case errdefs.IsNotFound(err):
		case err != nil:
			return err
		case !amend:
			return errors.New("refusing to amend an existing manifest list with no --amend flag")
		}
		for _, name := range args[1:] {
			if err := c.add(cmd.Context(), s, list, name, insecure); err != nil {
				return err
			}
		}
		c.println("Created manifest list", list.String())
		return nil
	}
	return cmd
}

// add puts a manifest into a list, unless it is in it.
func (c Client) add(ctx context.Context, s store, list reference.Named, name string, insecure bool) error {
	ref, err := parse(name)
	if err != nil {
		return err
	}
	m, err := s.get(list, ref)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err != nil || len(m.Raw) == 0 {
		r, err := c.fetch(ctx, ref, "create", insecure, false)
		if err != nil {
			return err
		}
		if m, err = newManifest(ref.String(), r.Descriptor, r.Raw); err != nil {
			return err
		}
	}
	return s.save(list, ref, m)
}

// Annotate is `manifest annotate`.
func Annotate(c Client) *cobra.Command {
	var p ocispec.Platform
	cmd := &cobra.Command{Use: "[OPTIONS] MANIFEST_LIST MANIFEST", Args: c.Args(2, 2)}
	f := cmd.Flags()
	f.StringVar(&p.OS, "os", "", "Set operating system")
	f.StringVar(&p.Architecture, "arch", "", "Set architecture")
	f.StringVar(&p.OSVersion, "os-version", "", "Set operating system version")
	f.StringSliceVar(&p.OSFeatures, "os-features", nil, "Set operating system feature")
	f.StringVar(&p.Variant, "variant", "", "Set architecture variant")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		list, err := parse(args[0])
		if err != nil {
			return fmt.Errorf("annotate: error parsing name for manifest list %s: %w", args[0], err)
		}
		ref, err := parse(args[1])
		if err != nil {
			return fmt.Errorf("annotate: error parsing name for manifest %s: %w", args[1], err)
		}
		m, err := c.store().get(list, ref)
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("manifest for image %s does not exist in %s", args[1], args[0])
		}
		if err != nil {
			return err
		}
		m.Descriptor.Platform = annotated(m.Descriptor.Platform, p)
		if got := *m.Descriptor.Platform; !known(got) {
			return fmt.Errorf("manifest entry for image has unsupported os/arch combination: %s/%s", got.OS, got.Architecture)
		}
		return c.store().save(list, ref, m)
	}
	return cmd
}

// annotated is a platform with what is set of another.
func annotated(old *ocispec.Platform, set ocispec.Platform) *ocispec.Platform {
	p := ocispec.Platform{}
	if old != nil {
		p = *old
	}
	for _, f := range []struct{ to, from *string }{{&p.OS, &set.OS}, {&p.Architecture, &set.Architecture}, {&p.OSVersion, &set.OSVersion}, {&p.Variant, &set.Variant}} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	for _, feature := range set.OSFeatures {
		if !slices.Contains(p.OSFeatures, feature) {
			p.OSFeatures = append(p.OSFeatures, feature)
		}
	}
	return &p
}

// Inspect is `manifest inspect`.
func Inspect(c Client) *cobra.Command {
	var verbose, insecure bool
	cmd := &cobra.Command{Use: "[OPTIONS] [MANIFEST_LIST] MANIFEST", Args: c.Args(1, 2)}
	cmd.Flags().BoolVar(&insecure, "insecure", false, insecureHelp)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Output additional info including layers and platform")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := parse(args[len(args)-1])
		if err != nil {
			return err
		}
		if len(args) == 2 { // one of a list that is here
			list, err := parse(args[0])
			if err != nil {
				return err
			}
			m, err := c.store().get(list, ref)
			if err != nil {
				return err
			}
			return printManifest(c.Out, m, verbose)
		}
		if list, err := c.store().all(ref); err == nil {
			return printList(c.Out, ref, list, verbose)
		}
		r, err := c.fetch(cmd.Context(), ref, "inspect", insecure, verbose)
		if err != nil {
			return err
		}
		if r.Manifests == nil {
			m, err := newManifest(ref.String(), r.Descriptor, r.Raw)
			if err != nil {
				return err
			}
			return printManifest(c.Out, m, verbose)
		}
		return printRemote(c.Out, ref, r, verbose)
	}
	return cmd
}

// printRemote prints a list as a registry has it.
func printRemote(out io.Writer, ref reference.Named, r remote, verbose bool) error {
	var list []Manifest
	for _, child := range r.Manifests {
		m := Manifest{Ref: child.Ref, Descriptor: child.Descriptor}
		if verbose {
			var err error
			if m, err = newManifest(child.Ref, child.Descriptor, child.Raw); err != nil {
				return err
			}
		}
		list = append(list, m)
	}
	return printList(out, ref, list, verbose)
}

func printManifest(out io.Writer, m Manifest, verbose bool) error {
	if verbose {
		return printIndented(out, m)
	}
	body, err := m.body()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, body, "", "\t"); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, b.String())
	return err
}

func printList(out io.Writer, ref reference.Named, list []Manifest, verbose bool) error {
	if verbose {
		return printIndented(out, list)
	}
	_, raw, err := listOf(ref, list)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, string(raw))
	return err
}

func printIndented(out io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, string(b))
	return err
}

// Push is `manifest push`.
func Push(c Client) *cobra.Command {
	var purge, insecure bool
	cmd := &cobra.Command{Use: "[OPTIONS] MANIFEST_LIST", Args: c.Args(1, 1)}
	cmd.Flags().BoolVarP(&purge, "purge", "p", false, "Remove the local manifest list after push")
	cmd.Flags().BoolVar(&insecure, "insecure", false, "Allow push to an insecure registry")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := parse(args[0])
		if err != nil {
			return err
		}
		list, err := c.store().all(ref)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return fmt.Errorf("%s not found", ref)
		}
		if err := c.push(cmd.Context(), ref, list, insecure); err != nil {
			return err
		}
		if purge {
			return c.store().remove(ref)
		}
		return nil
	}
	return cmd
}

func (c Client) push(ctx context.Context, ref reference.Named, list []Manifest, insecure bool) error {
	for _, m := range list {
		if p := m.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return fmt.Errorf("manifest %s must have an OS and Architecture to be pushed to a registry: hezi manifest annotate --os OS --arch ARCH %s %s", m.Ref, reference.FamiliarString(ref), m.Ref)
		}
		if got := digest.FromBytes(m.Raw); got != m.Descriptor.Digest {
			return fmt.Errorf("internal digest mismatch for %s: expected %s, got %s: remove the list (hezi manifest rm) and create it again", m.Ref, m.Descriptor.Digest, got)
		}
	}
	q := struct {
		Name, MediaType string
		Raw             []byte
		Manifests       []Manifest
	}{Name: ref.String(), Manifests: list}
	var err error
	if q.MediaType, q.Raw, err = listOf(ref, list); err != nil {
		return err
	}
	var pushed struct {
		Digest digest.Digest
		Refs   []string
	}
	err = c.ask(ctx, ref, "push", insecure, func(engine *endpoint.Connection, query url.Values, h http.Header) error {
		return engine.PostOwn(ctx, "/hezi/manifest/list", query, h, q, &pushed)
	})
	if err != nil {
		return err
	}
	for _, at := range pushed.Refs {
		_, d, _ := bytes.Cut([]byte(at), []byte("@"))
		c.println("Pushed ref", at, "with digest:", string(d))
	}
	c.println(pushed.Digest)
	return nil
}

// Remove is `manifest rm`.
func Remove(c Client) *cobra.Command {
	cmd := &cobra.Command{Use: "MANIFEST_LIST [MANIFEST_LIST...]", Args: c.Args(1, -1)}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		var errs []error
		for _, name := range args {
			ref, err := parse(name)
			if err == nil {
				_, err = os.Stat(c.store().list(ref))
				if errors.Is(err, os.ErrNotExist) {
					err = notFound(ref)
				}
			}
			if err == nil {
				err = c.store().remove(ref)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	return cmd
}
