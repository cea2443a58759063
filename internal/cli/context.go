package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	dockercontext "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/fvbommel/sortorder"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
	"hezi/internal/cli/term"
)

// contextStore is what the commands below do with Docker's store of contexts.
type contextStore struct{ *App }

func (a contextStore) store() *store.ContextStore { return endpoint.Contexts(a.flags.ConfigDir) }

// get finds a context; the default one is made up.
func (a contextStore) get(name string) (store.Metadata, error) {
	if name != endpoint.DefaultContext {
		return a.store().GetMetadata(name)
	}
	return store.Metadata{
		Name:      endpoint.DefaultContext,
		Metadata:  map[string]any{},
		Endpoints: map[string]any{docker.DockerEndpoint: docker.EndpointMeta{Host: endpoint.DefaultAddress()}},
	}, nil
}

func newContextLs(app *App) *cobra.Command {
	a := contextStore{app}
	var source string
	var quiet bool
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.Flags().StringVar(&source, "format", "", formatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show context names")
	cmd.RunE = func(*cobra.Command, []string) error {
		list, err := a.store().List()
		if err != nil {
			return err
		}
		current := a.contextName()
		rows := []*format.Context{format.NewContext(endpoint.DefaultContext, "The engine that HEZI_HOST, DOCKER_HOST or nothing names", endpoint.DefaultAddress(), current == endpoint.DefaultContext, nil)}
		found := current == endpoint.DefaultContext
		for _, m := range list {
			found = found || m.Name == current
			ep, err := docker.EndpointFromContext(m)
			rows = append(rows, format.NewContext(m.Name, description(m), ep.Host, m.Name == current, err))
		}
		if !found {
			_, err := a.get(current)
			rows = append(rows, format.NewContext(current, "", "", true, err))
		}
		slices.SortStableFunc(rows, func(x, y *format.Context) int { return sortorder.NaturalCompare(x.Name(), y.Name()) })
		p := format.Printer{Out: a.Out, Source: format.ContextSource(source, quiet), Headers: format.ContextHeaders}
		if err := format.Rows(p, rows); err != nil {
			return err
		}
		a.warnOverride("")
		return nil
	}
	return cmd
}

// description is what the user wrote about a context.
func description(m store.Metadata) string {
	fields, _ := m.Metadata.(map[string]any)
	s, _ := fields["Description"].(string)
	return s
}

// warnOverride says that the environment wins over the current context.
func (a contextStore) warnOverride(name string) {
	for _, env := range []string{"HEZI_HOST", "DOCKER_HOST"} {
		if os.Getenv(env) == "" {
			continue
		}
		use := "To use a context"
		if name != "" {
			use = fmt.Sprintf("To use %q", name)
		}
		a.warn(fmt.Sprintf("Warning: %[1]s environment variable overrides the active context. %[2]s, either set the global --context flag, or unset %[1]s environment variable.", env, use))
		return
	}
}

func newContextShow(app *App) *cobra.Command {
	a := contextStore{app}
	cmd := &cobra.Command{Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.RunE = func(*cobra.Command, []string) error {
		a.println(a.contextName())
		return nil
	}
	return cmd
}

func newContextUse(app *App) *cobra.Command {
	a := contextStore{app}
	cmd := &cobra.Command{Use: "CONTEXT", Args: exactArgs(1), ValidArgsFunction: completeContexts(app)}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name, value := args[0], ""
		if name != endpoint.DefaultContext {
			if err := store.ValidateContextName(name); err != nil {
				return err
			}
			if _, err := a.get(name); err != nil {
				return err
			}
			value = name
		}
		if err := a.setCurrent(value); err != nil {
			return err
		}
		a.println(name)
		a.warn(fmt.Sprintf("Current context is now %q", name))
		if value != "" {
			a.warnOverride(name)
		}
		return nil
	}
	return cmd
}

// setCurrent writes the current context where it changes.
func (a contextStore) setCurrent(name string) error {
	cfg, err := a.Config()
	if err != nil || cfg.CurrentContext == name {
		return err
	}
	cfg.CurrentContext = name
	return cfg.Save()
}

func newContextInspect(app *App) *cobra.Command {
	a := contextStore{app}
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS] [CONTEXT] [CONTEXT...]", Args: cobra.ArbitraryArgs, ValidArgsFunction: completeContexts(app)}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{a.contextName()}
		}
		out, err := format.NewInspection(source)
		if err != nil {
			return &exitError{code: 64, err: err}
		}
		var errs []error
		for _, name := range args {
			c, err := a.inspected(name)
			if err == nil {
				err = out.Add(c, nil)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(append([]error{out.Flush(a.Out)}, errs...)...)
	}
	return cmd
}

// contextDetails is a context in full.
type contextDetails struct {
	store.Metadata
	TLSMaterial map[string]store.EndpointFiles
	Storage     store.StorageInfo
}

func (a contextStore) inspected(name string) (*contextDetails, error) {
	m, err := a.get(name)
	if err != nil {
		return nil, err
	}
	c := &contextDetails{Metadata: m, TLSMaterial: map[string]store.EndpointFiles{}, Storage: store.StorageInfo{MetadataPath: "<IN MEMORY>", TLSPath: "<IN MEMORY>"}}
	if name == endpoint.DefaultContext {
		return c, nil
	}
	c.Storage = a.store().GetStorageInfo(name)
	files, err := a.store().ListTLSFiles(name)
	if files != nil {
		c.TLSMaterial = files
	}
	return c, err
}

func newContextRm(app *App) *cobra.Command {
	a := contextStore{app}
	var force bool
	cmd := &cobra.Command{Use: "[OPTIONS] CONTEXT [CONTEXT...]", Args: minArgs(1), ValidArgsFunction: completeContexts(app)}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of a context in use")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		current := a.contextName()
		var errs []error
		for _, name := range args {
			if err := a.remove(name, name == current, force); err != nil {
				errs = append(errs, err)
				continue
			}
			a.println(name)
		}
		return errors.Join(errs...)
	}
	return cmd
}

func (a contextStore) remove(name string, current, force bool) error {
	switch {
	case name == endpoint.DefaultContext:
		return errors.New(`context "default" cannot be removed`)
	case current && !force:
		return fmt.Errorf("context %q is in use, set -f flag to force remove", name)
	case current:
		if err := a.setCurrent(""); err != nil {
			return err
		}
	}
	if !force {
		if _, err := os.Stat(a.store().GetStorageInfo(name).MetadataPath); os.IsNotExist(err) {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("context %q does not exist", name))
		}
	}
	return a.store().Remove(name)
}

const contextKeys = `

The keys of --docker:

  from               Copy the endpoint of another context
  host               Address of the engine: unix://, tcp:// or ssh://
  ca                 Trust certs signed only by this CA
  cert               Path to TLS certificate file
  key                Path to TLS key file
  skip-tls-verify    Skip TLS certificate validation`

func newContextCreate(app *App) *cobra.Command {
	a := contextStore{app}
	var about, from string
	var keys map[string]string
	cmd := &cobra.Command{
		Use: "[OPTIONS] CONTEXT", Args: exactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long:    "Create a context" + contextKeys,
		Example: `  hezi context create build --docker "host=ssh://me@build-server"`,
	}
	f := cmd.Flags()
	f.StringVar(&about, "description", "", "Description of the context")
	f.StringToStringVar(&keys, "docker", nil, "set the engine's endpoint")
	f.StringVar(&from, "from", "", "create context from a named context")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name := args[0]
		if err := a.free(name); err != nil {
			return err
		}
		if from != "" && keys != nil {
			return errors.New("cannot use --docker flag when --from is set")
		}
		if keys == nil {
			if from == "" {
				from = a.contextName()
			}
			keys = map[string]string{"from": from}
		}
		meta := store.Metadata{Name: name, Metadata: map[string]any{}, Endpoints: map[string]any{}}
		if from != "" {
			source, err := a.get(from)
			if err != nil {
				return err
			}
			if fields, ok := source.Metadata.(map[string]any); ok {
				meta.Metadata = maps.Clone(fields)
			}
		}
		if err := a.write(meta, about, keys); err != nil {
			return err
		}
		a.println(name)
		a.warn(fmt.Sprintf("Successfully created context %q", name))
		return nil
	}
	return cmd
}

// free refuses a name that is in use or cannot be used.
func (a contextStore) free(name string) error {
	if err := store.ValidateContextName(name); err != nil {
		return err
	}
	_, err := a.store().GetMetadata(name)
	if err == nil {
		return fmt.Errorf("context %q already exists", name)
	}
	if !errdefs.IsNotFound(err) {
		return fmt.Errorf("error while getting existing contexts: %w", err)
	}
	return nil
}

func newContextUpdate(app *App) *cobra.Command {
	a := contextStore{app}
	var about string
	var keys map[string]string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTEXT", Args: exactArgs(1), ValidArgsFunction: completeContexts(app), Long: "Update a context" + contextKeys}
	cmd.Flags().StringVar(&about, "description", "", "Description of the context")
	cmd.Flags().StringToStringVar(&keys, "docker", nil, "set the engine's endpoint")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name := args[0]
		if err := store.ValidateContextName(name); err != nil {
			return err
		}
		meta, err := a.store().GetMetadata(name)
		if err != nil {
			return err
		}
		if err := a.write(meta, about, keys); err != nil {
			return err
		}
		a.println(name)
		a.warn(fmt.Sprintf("Successfully updated context %q", name))
		return nil
	}
	return cmd
}

// write changes description and endpoint and stores the context.
func (a contextStore) write(meta store.Metadata, about string, keys map[string]string) error {
	fields, ok := meta.Metadata.(map[string]any)
	if !ok || fields == nil {
		fields = map[string]any{}
	}
	if about != "" {
		fields["Description"] = about
	}
	meta.Metadata = fields
	if keys == nil {
		return a.store().CreateOrUpdate(meta)
	}
	ep, tls, err := a.readKeys(keys)
	if err != nil {
		return fmt.Errorf("unable to create docker endpoint config: %w", err)
	}
	meta.Endpoints[docker.DockerEndpoint] = ep
	if err := a.store().CreateOrUpdate(meta); err != nil {
		return err
	}
	return a.store().ResetEndpointTLSMaterial(meta.Name, docker.DockerEndpoint, tls)
}

// readKeys reads the keys of --docker.
func (a contextStore) readKeys(keys map[string]string) (docker.EndpointMeta, *store.EndpointTLSData, error) {
	var ep docker.EndpointMeta
	for k := range keys {
		if !slices.Contains([]string{"from", "host", "ca", "cert", "key", "skip-tls-verify"}, k) {
			return ep, nil, fmt.Errorf("unrecognized config key: %s", k)
		}
	}
	if from, ok := keys["from"]; ok {
		meta, err := a.get(from)
		if err != nil {
			return ep, nil, err
		}
		if ep, err = docker.EndpointFromContext(meta); err != nil || from == endpoint.DefaultContext {
			return ep, nil, err
		}
		full, err := docker.WithTLSData(a.store(), from, ep)
		return ep, full.TLSData.ToStoreTLSData(), err
	}
	ep.Host = keys["host"]
	if s := keys["skip-tls-verify"]; s != "" {
		skip, err := strconv.ParseBool(s)
		if err != nil {
			return ep, nil, fmt.Errorf("skip-tls-verify=%s: must be true or false", s)
		}
		ep.SkipTLSVerify = skip
	}
	if _, err := (endpoint.Flags{Host: ep.Host}).Resolve(nil); err != nil {
		return ep, nil, err
	}
	tls, err := dockercontext.TLSDataFromFiles(keys["ca"], keys["cert"], keys["key"])
	return ep, tls.ToStoreTLSData(), err
}

func newContextExport(app *App) *cobra.Command {
	a := contextStore{app}
	cmd := &cobra.Command{Use: "CONTEXT [FILE|-]", Args: rangeArgs(1, 2), ValidArgsFunction: completeContexts(app)}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name, dest := args[0], args[0]+".dockercontext"
		if len(args) == 2 {
			dest = args[1]
		}
		if err := store.ValidateContextName(name); err != nil {
			return err
		}
		if _, err := a.store().GetMetadata(name); err != nil {
			return err
		}
		archive := store.Export(name, a.store())
		defer archive.Close()
		if dest == "-" {
			if term.IsTerminal(a.Out) {
				return errors.New("cowardly refusing to export to a terminal, specify a file path")
			}
			_, err := io.Copy(a.Out, archive)
			return err
		}
		a.catchSignals()
		f, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, archive); err != nil {
			return errors.Join(err, f.Close(), os.Remove(dest))
		}
		if err := f.Close(); err != nil {
			return err
		}
		a.warn(fmt.Sprintf("Written file %q", dest))
		return nil
	}
	return cmd
}

func newContextImport(app *App) *cobra.Command {
	a := contextStore{app}
	cmd := &cobra.Command{Use: "CONTEXT FILE|-", Args: exactArgs(2)}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name, source := args[0], a.In
		if err := a.free(name); err != nil {
			return err
		}
		if args[1] != "-" {
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			source = f
		}
		if err := store.Import(name, a.store(), source); err != nil {
			return err
		}
		a.println(name)
		a.warn(fmt.Sprintf("Successfully imported context %q", name))
		return nil
	}
	return cmd
}
