package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hezi/internal/cli/term"
	"hezi/internal/version"
)

// root builds the command line but for its commands.
func (a *App) root() *cobra.Command {
	cobra.EnableCommandSorting = false // help sorts, but for the common commands
	showVersion := false
	cmd := &cobra.Command{
		Use:           "hezi [OPTIONS] COMMAND [ARG...]",
		Short:         "Containers that start in milliseconds",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          groupArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				a.println("Hezi version " + version.Version)
				return nil
			}
			return cmd.Help()
		},
		PersistentPreRunE:     func(cmd *cobra.Command, _ []string) error { return a.settle(cmd.Root().Flags()) },
		DisableFlagsInUseLine: true,
	}
	cmd.SetOut(a.Out)
	cmd.SetErr(a.Err)
	cmd.SetIn(a.In)
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetHelpFunc(help)
	cmd.SetUsageFunc(usage)

	a.globalFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&showVersion, "version", "v", false, "Print version information and quit")
	cmd.PersistentFlags().BoolP("help", "h", false, "Print usage")
	cmd.PersistentFlags().Lookup("help").Hidden = true
	_ = cmd.PersistentFlags().MarkShorthandDeprecated("help", "use --help") // the flag exists
	return cmd
}

// addCommands adds those that words, which follow the global flags, may ask for.
func (a *App) addCommands(cmd *cobra.Command, words []string) {
	completing := len(words) > 0 && (words[0] == cobra.ShellCompRequestCmd || words[0] == cobra.ShellCompNoDescRequestCmd || words[0] == "completion")
	a.builder = a.builder || completing
	cmd.CompletionOptions.DisableDefaultCmd = len(words) > 0 && !completing && !slices.Contains(words, "--help")
	list := commands()
	if i := slices.IndexFunc(list, func(e entry) bool { return len(words) > 0 && e.is(words[0]) }); i >= 0 && !a.builder {
		list = list[i : i+1] // nobody asks for the others
	}
	add(a, cmd, list, words)
	cmd.SetHelpCommand(helpCommand())
	if completing {
		_ = cmd.RegisterFlagCompletionFunc("context", completeContexts(a)) // the flag exists
	}
}

// Tree is the whole command line, for what describes it: its defaults are those of an
// environment that says nothing.
func Tree() *cobra.Command {
	a := &App{Streams: term.Standard(), builder: true}
	cmd := a.root()
	a.addCommands(cmd, nil)
	neutral(cmd)
	return cmd
}

// neutral takes out of the defaults what is of this process's environment.
func neutral(cmd *cobra.Command) {
	const dir = "~/.docker"
	for name, def := range map[string]string{
		"config": dir, "tls": "false", "tlsverify": "false", "platform": "",
		"tlscacert": dir + "/ca.pem", "tlscert": dir + "/cert.pem", "tlskey": dir + "/key.pem",
	} {
		if f := cmd.Flags().Lookup(name); f != nil {
			f.DefValue = def
		}
	}
	for _, c := range cmd.Commands() {
		neutral(c)
	}
}

func (a *App) globalFlags(f *pflag.FlagSet) {
	f.StringVar(&a.flags.ConfigDir, "config", config.Dir(), "Location of client config files")
	f.BoolVarP(&a.debug, "debug", "D", false, "Enable debug mode")
	f.VarP(&oneHost{&a.flags.Host, false}, "host", "H", "Daemon socket to connect to")
	f.StringVarP(&a.flags.Context, "context", "c", "", `Name of the context to use to connect to the daemon (overrides HEZI_HOST and DOCKER_HOST, but for "default", and the context set with "hezi context use")`)
	f.StringP("log-level", "l", "info", `Set the logging level ("debug", "info", "warn", "error", "fatal")`)
	f.BoolVar(&a.flags.TLS, "tls", os.Getenv("DOCKER_TLS") != "", "Use TLS; implied by --tlsverify")
	f.BoolVar(&a.flags.TLSVerify, "tlsverify", os.Getenv("DOCKER_TLS_VERIFY") != "", "Use TLS and verify the remote")
	certs := os.Getenv("DOCKER_CERT_PATH")
	if certs == "" {
		certs = config.Dir()
	}
	f.StringVar(&a.flags.CACert, "tlscacert", filepath.Join(certs, "ca.pem"), "Trust certs signed only by this CA")
	f.StringVar(&a.flags.Cert, "tlscert", filepath.Join(certs, "cert.pem"), "Path to TLS certificate file")
	f.StringVar(&a.flags.Key, "tlskey", filepath.Join(certs, "key.pem"), "Path to TLS key file")
}

// parseGlobals reads the flags before the command, and returns the rest.
func parseGlobals(root *cobra.Command, args []string) ([]string, error) {
	f := pflag.NewFlagSet("hezi", pflag.ContinueOnError)
	f.SetInterspersed(false) // what stands after the command is the command's
	f.SetOutput(root.ErrOrStderr())
	f.AddFlagSet(root.Flags())
	f.AddFlagSet(root.PersistentFlags())
	f.Usage = func() {}
	if err := f.Parse(args); err != nil {
		return nil, flagError(root, err)
	}
	return f.Args(), nil
}

// oneHost refuses a second -H, which dockerd knows and its client does not.
type oneHost struct {
	host *string
	set  bool
}

func (h *oneHost) String() string {
	if h.host == nil {
		return ""
	}
	return *h.host
}

func (*oneHost) Type() string { return "string" }

func (h *oneHost) Set(s string) error {
	if h.set {
		return errors.New("specify only one -H")
	}
	*h.host, h.set = s, true
	return nil
}

// settle completes the global flags after they were read.
func (a *App) settle(f *pflag.FlagSet) error {
	if level, _ := f.GetString("log-level"); !slices.Contains([]string{"debug", "info", "warn", "error", "fatal"}, level) {
		return fmt.Errorf("unable to parse logging level: %s (one of debug, info, warn, error, fatal)", level)
	}
	if f.Changed("config") {
		config.SetDir(a.flags.ConfigDir)
	}
	// --tlsverify=false asks for TLS without a check.
	if f.Changed("tlsverify") || a.flags.TLSVerify {
		a.flags.TLS = true
	}
	for name, file := range map[string]*string{"tlscert": &a.flags.Cert, "tlskey": &a.flags.Key} {
		if _, err := os.Stat(*file); os.IsNotExist(err) && !f.Changed(name) {
			*file = ""
		}
	}
	return nil
}
