package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/request"
	"hezi/internal/cli/term"
)

// creation is what run and create share beside the container's own flags.
type creation struct {
	command string // run or create

	name, pull   string
	platform     *string
	quiet        bool
	useAPISocket bool
	options      *request.Options
}

func newCreation(command string, cmd *cobra.Command) *creation {
	c := &creation{command: command}
	f := cmd.Flags()
	f.SetInterspersed(false) // after the image everything is the program's
	f.StringVar(&c.name, "name", "", "Assign a name to the container")
	verb := map[string]string{"run": "running", "create": "creating"}[command]
	f.StringVar(&c.pull, "pull", "missing", `Pull image before `+verb+` ("always", "missing", "never")`)
	f.BoolVarP(&c.quiet, "quiet", "q", false, "Suppress the pull output")
	f.BoolVar(&c.useAPISocket, "use-api-socket", false, "Bind mount the engine's API socket and required auth")
	c.platform = platformFlag(f)
	f.Bool("help", false, "Print usage") // -h is the host name
	f.Bool("disable-content-trust", true, "Skip image verification (deprecated)")
	_ = f.MarkDeprecated("disable-content-trust", "support for docker content trust was removed") // the flag exists
	c.options = request.AddFlags(f)
	return c
}

func newCreate(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "[OPTIONS] IMAGE [COMMAND] [ARG...]", Args: minArgs(1), ValidArgsFunction: completeImages(a, 1)}
	c := newCreation("create", cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.takeArgs(cmd.Flags(), args); err != nil {
			return err
		}
		ctx := cmd.Context()
		if _, err := a.Engine(ctx); err != nil {
			return err
		}
		req, err := a.request(c)
		if err != nil {
			return err
		}
		id, err := a.create(ctx, c, req)
		if err != nil {
			return err
		}
		a.println(id)
		return nil
	}
	return cmd
}

// takeArgs splits IMAGE [COMMAND] [ARG...].
func (c *creation) takeArgs(f *pflag.FlagSet, args []string) error {
	c.options.Image = args[0]
	c.options.Args = args[1:]
	switch c.pull {
	case "always", "missing", "never", "":
	default:
		return c.fail(fmt.Errorf("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"", c.pull))
	}
	if err := checkImage(args[0], f); err != nil {
		return c.fail(err)
	}
	return nil
}

// checkImage sees an environment variable that lost its -e.
func checkImage(image string, f *pflag.FlagSet) error {
	name, _, ok := strings.Cut(image, "=")
	if !ok || name == "" || strings.ContainsAny(name, "/:@") {
		return nil
	}
	return fmt.Errorf("invalid reference format: %q is not an image; for an environment variable write -e %s", image, image)
}

// fail is an error before the engine was asked for a container.
func (c *creation) fail(err error) error {
	return &exitError{code: 125, err: withHelp(err, c.command)}
}

// request makes the request of the flags.
func (a *App) request(c *creation) (*request.Container, error) {
	if a.osType == "windows" {
		return nil, c.fail(errors.New("a Windows engine is not supported by this client; use docker"))
	}
	cfg, err := a.Config()
	if err != nil {
		return nil, err
	}
	var env []string
	if len(cfg.Proxies) > 0 {
		for k, v := range cfg.ParseProxyConfig(a.engine.DaemonHost(), opts.ConvertKVStringsToMapWithNil(c.options.Env())) {
			if v != nil {
				env = append(env, k+"="+*v)
			}
		}
	}
	req, err := c.options.Container(env)
	if err != nil {
		return nil, c.fail(err)
	}
	return req, nil
}

// create asks for the container, pulls its image when it is missing, and
// writes --cidfile.
func (a *App) create(ctx context.Context, c *creation, req *request.Container) (id string, err error) {
	platform, err := platformList(*c.platform)
	if err != nil {
		return "", err
	}
	ref, err := reference.ParseAnyReference(req.Config.Image)
	if err != nil {
		return "", imageError(req.Config.Image, err)
	}
	if c.useAPISocket {
		if err := a.shareSocket(req); err != nil {
			return "", err
		}
	}
	if req.Host.ContainerIDFile != "" {
		a.catchSignals()
	}
	file, err := newCIDFile(req.Host.ContainerIDFile)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.close()) }()

	if c.pull == "always" {
		if err := a.pullFor(ctx, c, req.Config.Image, platform); err != nil {
			return "", err
		}
	}
	if err := a.ownFlags(ctx, c.options.Own()); err != nil {
		return "", err
	}
	rows, cols := term.Size(a.Out)
	req.Host.ConsoleSize = [2]uint{rows, cols}
	options := client.ContainerCreateOptions{Name: c.name, Config: req.Config, HostConfig: req.Host, NetworkingConfig: req.Networking}
	if len(platform) > 0 {
		options.Platform = &platform[0]
	}
	result, err := a.engine.ContainerCreate(ctx, options)
	if named, ok := ref.(reference.Named); ok && errdefs.IsNotFound(err) && c.pull == "missing" {
		if !c.quiet {
			a.warn(fmt.Sprintf("Unable to find image '%s' locally", reference.FamiliarString(reference.TagNameOnly(named))))
		}
		if err := a.pullFor(ctx, c, req.Config.Image, platform); err != nil {
			return "", err
		}
		result, err = a.engine.ContainerCreate(ctx, options)
	}
	if err != nil {
		return "", err
	}
	for _, w := range result.Warnings {
		a.warn("WARNING:", w)
	}
	return result.ID, file.write(result.ID)
}

// imageError says what is wrong with a reference.
func imageError(image string, err error) error {
	if strings.Contains(err.Error(), "must be lowercase") {
		return fmt.Errorf("%w; write %s", err, strings.ToLower(image))
	}
	return fmt.Errorf("%w: %q is not the name of an image (NAME[:TAG], HOST[:PORT]/NAME[:TAG] or an ID)", err, image)
}

// pullFor pulls with the progress on standard error: standard output is the
// container's.
func (a *App) pullFor(ctx context.Context, c *creation, image string, platform []ocispec.Platform) error {
	err := a.pull(ctx, image, pullOptions{platforms: platform, quiet: c.quiet}, a.Err)
	a.timeline.mark("pull", "its image is pulled")
	return err
}

// shareSocket mounts the engine's socket into the container.
func (a *App) shareSocket(req *request.Container) error {
	path, ok := strings.CutPrefix(a.engine.DaemonHost(), "unix://")
	if !ok {
		return fmt.Errorf("--use-api-socket needs an engine with a unix socket, not %s", a.engine.DaemonHost())
	}
	cfg, err := a.Config()
	if err != nil {
		return err
	}
	if creds, err := cfg.GetAllCredentials(); err != nil {
		return fmt.Errorf("resolving credentials failed: %w", err)
	} else if len(creds) > 0 {
		return errors.New("--use-api-socket cannot hand over the credentials of your registries yet: use -v " + path + ":/var/run/docker.sock to share the socket without them")
	}
	req.Host.Mounts = append(req.Host.Mounts, mount.Mount{Type: mount.TypeBind, Source: path, Target: "/var/run/docker.sock", BindOptions: &mount.BindOptions{}})
	return nil
}

// cidFile is the file of --cidfile: made before the container, removed again
// when there is none.
type cidFile struct {
	f       *os.File
	written bool
}

func newCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return &cidFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, errors.New("container ID file found, make sure the other container isn't running or delete " + path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{f: f}, nil
}

func (c *cidFile) write(id string) error {
	if c.f == nil {
		return nil
	}
	if _, err := c.f.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.written = true
	return nil
}

func (c *cidFile) close() error {
	if c.f == nil {
		return nil
	}
	err := c.f.Close()
	if !c.written {
		err = errors.Join(err, os.Remove(c.f.Name()))
	}
	return err
}

// ownFlags refuses a flag that another engine than Hezi's would ignore.
func (a *App) ownFlags(ctx context.Context, flag string) error {
	if flag == "" {
		return nil
	}
	v, err := a.engine.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return err
	}
	if v.Platform.Name != "Hezi" {
		return fmt.Errorf("%s: %w: leave it out", flag, endpoint.ErrNotHezi)
	}
	return nil
}
