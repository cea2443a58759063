package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hezi/internal/cli/manifests"
	"hezi/internal/cli/moving"
	"hezi/internal/cli/upkeep"
)

// entry is a command of the tree. A group has sub, all others build.
type entry struct {
	name    string
	aliases []string
	short   string
	top     bool // among the common commands of the overview
	hidden  bool

	build func(*App) *cobra.Command
	sub   []entry
}

// named gives an entry another name, for its long or short form.
func (e entry) named(name string, aliases ...string) entry {
	e.name, e.aliases = name, aliases
	return e
}

// is says whether word names the command.
func (e entry) is(word string) bool { return word == e.name || slices.Contains(e.aliases, word) }

// commands is every command of hezi. What the long form `container X` does is
// done by X too, where Docker has it.
func commands() []entry {
	containers := containerCommands()
	images := imageCommands()
	system := systemCommands()
	pick := func(list []entry, name string) entry {
		i := slices.IndexFunc(list, func(e entry) bool { return e.name == name })
		e := list[i]
		e.aliases = nil
		return e
	}
	top := func(e entry) entry {
		e.top = true
		return e
	}
	all := []entry{
		top(pick(containers, "run")),
		top(pick(containers, "exec")),
		top(pick(containers, "ls").named("ps")),
		pick(images, "build"),
		top(pick(images, "pull")),
		pick(images, "push"),
		top(pick(images, "ls").named("images")),
		top(entry{name: "login", short: "Authenticate to a registry", build: newLogin}),
		top(entry{name: "logout", short: "Log out from a registry", build: newLogout}),
		top(entry{name: "search", short: "Search Docker Hub for images", build: newSearch}),
		top(entry{name: "version", short: "Show the version of client and engine", build: newVersion}),
		top(pick(system, "info")),

		{name: "builder", hidden: true, short: "Manage builds", sub: []entry{
			missing("build", "Build an image from a Dockerfile", buildWay),
			missing("builder prune", "Remove build cache", "there is no build cache yet"),
		}},
		{name: "checkpoint", hidden: true, short: "Manage checkpoints", sub: []entry{
			missing("checkpoint create", "Create a checkpoint from a running container", ""),
			missing("checkpoint ls", "List checkpoints for a container", "", "list"),
			missing("checkpoint rm", "Remove a checkpoint", "", "remove"),
		}},
		{name: "compose", short: "Run Docker's Compose on this engine", build: newCompose},
		{name: "container", short: "Manage containers", sub: containers},
		{name: "context", short: "Manage contexts", sub: contextCommands()},
		{name: "debug", short: "Find out what the engine does", sub: []entry{
			{name: "timeline", short: "Print what the phases of a command took", sub: []entry{
				{name: "run", short: "Create and run a new container, and print what its phases took", build: newTimelineRun},
			}},
		}},
		{name: "execs", short: "Manage commands that run by exec", sub: []entry{
			{name: "kill", short: "Send a signal to all processes of one or more execs", build: newExecsKill},
			{name: "ls", aliases: []string{"list"}, short: "List execs that have processes", build: newExecsLs},
		}},
		{name: "image", short: "Manage images", sub: images},
		{name: "manifest", short: "Manage image manifests and manifest lists", sub: manifestCommands()},
		{name: "network", short: "Manage networks", sub: networkCommands()},
		{name: "registry", short: "Find out how registries are reached", sub: []entry{
			{name: "test", short: "Show which host serves a registry's images, and why others do not", build: newRegistryTest},
		}},
		{name: "system", short: "Manage the engine", sub: system},
		{name: "volume", short: "Manage volumes", sub: volumeCommands()},

		missing("bake", "Build from a file", buildWay),
		{name: "inspect", short: "Return low-level information on objects of any type", build: newInspect},
		pick(images, "rm").named("rmi"),
		pick(system, "events"),
	}
	for _, name := range []string{"history", "import", "load", "save", "tag"} {
		all = append(all, pick(images, name))
	}
	for _, name := range []string{"attach", "commit", "cp", "create", "diff", "export", "kill", "logs", "pause", "port", "rename", "restart", "rm", "rollback", "snapshot", "snapshots", "start", "stats", "stop", "top", "unpause", "update", "wait"} {
		all = append(all, pick(containers, name))
	}
	return all
}

func containerCommands() []entry {
	return []entry{
		{name: "attach", short: "Attach local standard input, output, and error streams to a running container", build: newAttach},
		{name: "commit", short: "Create a new image from a container's changes", build: newCommit},
		{name: "cp", short: "Copy files/folders between containers and the local filesystem", build: newCp},
		{name: "create", short: "Create a new container", build: newCreate},
		{name: "diff", short: "Inspect changes to files or directories on a container's filesystem", build: newDiff},
		{name: "exec", short: "Execute a command in a running container", build: newExec},
		{name: "export", short: "Export a container's filesystem as a tar archive", build: newExport},
		{name: "inspect", short: "Display detailed information on one or more containers", build: newContainerInspect},
		{name: "kill", short: "Kill one or more running containers", build: newKill},
		{name: "logs", short: "Fetch the logs of a container", build: newLogs},
		{name: "ls", aliases: []string{"ps", "list"}, short: "List containers", build: newPs},
		{name: "pause", short: "Pause all processes within one or more containers", build: newPause},
		{name: "port", short: "List port mappings or a specific mapping for the container", build: newPort},
		{name: "prune", short: "Remove all stopped containers", build: upkept(upkeep.NewContainerPrune)},
		{name: "rename", short: "Rename a container", build: newRename},
		{name: "restart", short: "Restart one or more containers", build: newRestart},
		{name: "rm", aliases: []string{"remove"}, short: "Remove one or more containers", build: newRm},
		{name: "rollback", short: "Give a stopped container the files of a snapshot again", build: newRollback},
		{name: "run", short: "Create and run a new container from an image", build: newRun},
		{name: "snapshot", short: "Keep what a container has written, for a rollback", build: newSnapshot},
		{name: "snapshots", short: "List or remove snapshots", build: newSnapshots},
		{name: "start", short: "Start one or more stopped containers", build: newStart},
		{name: "stats", short: "Display a live stream of container(s) resource usage statistics", build: newStats},
		{name: "stop", short: "Stop one or more running containers", build: newStop},
		{name: "top", short: "Display the running processes of a container", build: newTop},
		{name: "unpause", short: "Unpause all processes within one or more containers", build: newUnpause},
		{name: "update", short: "Update configuration of one or more containers", build: newUpdate},
		{name: "wait", short: "Block until one or more containers stop, then print their exit codes", build: newWait},
	}
}

func imageCommands() []entry {
	return []entry{
		missing("build", "Build an image from a Dockerfile", buildWay),
		{name: "history", short: "Show the history of an image", build: newHistory},
		{name: "import", short: "Import the contents from a tarball to create a filesystem image", build: newImport},
		{name: "inspect", short: "Display detailed information on one or more images", build: newImageInspect},
		{name: "load", short: "Load an image from a tar archive or STDIN", build: newLoad},
		{name: "ls", aliases: []string{"list"}, short: "List images", build: newImages},
		{name: "prune", short: "Remove unused images", build: upkept(upkeep.NewImagePrune)},
		{name: "pull", short: "Download an image from a registry", build: newPull},
		{name: "push", short: "Upload an image to a registry", build: newPush},
		{name: "rm", aliases: []string{"rmi", "remove"}, short: "Remove one or more images", build: newRmi},
		{name: "save", short: "Save one or more images to a tar archive (streamed to STDOUT by default)", build: newSave},
		{name: "tag", short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", build: newTag},
	}
}

func manifestCommands() []entry {
	return []entry{
		{name: "annotate", short: "Add additional information to a local image manifest", build: manifestCommand(manifests.Annotate)},
		{name: "create", short: "Create a local manifest list for annotating and pushing to a registry", build: manifestCommand(manifests.Create)},
		{name: "inspect", short: "Display an image manifest, or manifest list", build: manifestCommand(manifests.Inspect)},
		{name: "push", short: "Push a manifest list to a repository", build: manifestCommand(manifests.Push)},
		{name: "rm", short: "Delete one or more manifest lists from local storage", build: manifestCommand(manifests.Remove)},
	}
}

func networkCommands() []entry {
	return []entry{
		{name: "connect", short: "Connect a container to a network", build: newNetworkConnect},
		{name: "create", short: "Create a network", build: newNetworkCreate},
		{name: "disconnect", short: "Disconnect a container from a network", build: newNetworkDisconnect},
		{name: "inspect", short: "Display detailed information on one or more networks", build: newNetworkInspect},
		{name: "ls", aliases: []string{"list"}, short: "List networks", build: newNetworkLs},
		{name: "prune", short: "Remove all unused networks", build: upkept(upkeep.NewNetworkPrune)},
		{name: "rm", aliases: []string{"remove"}, short: "Remove one or more networks", build: newNetworkRm},
	}
}

func systemCommands() []entry {
	return []entry{
		{name: "check", short: "Verify what the engine has on disk, and repair it", build: upkept(upkeep.NewCheck)},
		{name: "df", short: "Show disk usage of the engine", build: upkept(upkeep.NewDF)},
		{name: "dial-stdio", short: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.", hidden: true, build: newDialStdio},
		{name: "events", short: "Get real time events from the server", build: newEvents},
		{name: "import-docker", short: "Take over what a Docker engine has", build: upkept(moving.New)},
		{name: "info", short: "Display system-wide information", build: newInfo},
		{name: "prune", short: "Remove unused data", build: upkept(upkeep.NewSystemPrune)},
		{name: "stop", short: "Stop all running containers", build: newSystemStop},
	}
}

func volumeCommands() []entry {
	return []entry{
		{name: "create", short: "Create a volume", build: newVolumeCreate},
		{name: "inspect", short: "Display detailed information on one or more volumes", build: newVolumeInspect},
		{name: "ls", aliases: []string{"list"}, short: "List volumes", build: newVolumeLs},
		{name: "prune", short: "Remove unused local volumes", build: upkept(upkeep.NewVolumePrune)},
		{name: "rm", aliases: []string{"remove"}, short: "Remove one or more volumes", build: newVolumeRm},
		{name: "clone", short: "Make a volume with what another holds", build: newVolumeClone},
		{name: "export", short: "Write what a volume holds as an archive", build: newVolumeExport},
		{name: "import", short: "Make a volume of an archive", build: newVolumeImport},
		{name: "protect", short: "Have one or more volumes never removed", build: newVolumeProtect("protect")},
		{name: "unprotect", short: "Let one or more volumes be removed again", build: newVolumeProtect("unprotect")},
		{name: "rename", short: "Rename a volume", build: newVolumeRename},
		{name: "snapshot", short: "Keep what a volume holds now", build: newVolumeSnapshot},
		{name: "snapshots", short: "List or remove the snapshots of a volume", build: newVolumeSnapshots},
		{name: "restore", short: "Give a volume what it held at a snapshot", build: newVolumeRestore},
		{name: "trash", short: "List or empty the trash of removed volumes", build: newVolumeTrash},
		{name: "undo", short: "Bring a removed volume back", build: newVolumeUndo},
		missing("volume update", "Update a volume (cluster volumes only)", "only cluster volumes can be updated, and there is no cluster"),
	}
}

func contextCommands() []entry {
	return []entry{
		{name: "create", short: "Create a context", build: newContextCreate},
		{name: "export", short: "Export a context to a tar archive FILE or a tar stream on STDOUT", build: newContextExport},
		{name: "import", short: "Import a context from a tar or zip file", build: newContextImport},
		{name: "inspect", short: "Display detailed information on one or more contexts", build: newContextInspect},
		{name: "ls", aliases: []string{"list"}, short: "List contexts", build: newContextLs},
		{name: "rm", aliases: []string{"remove"}, short: "Remove one or more contexts", build: newContextRm},
		{name: "show", short: "Print the name of the current context", build: newContextShow},
		{name: "update", short: "Update a context", build: newContextUpdate},
		{name: "use", short: "Set the default context", build: newContextUse},
	}
}

const buildWay = "build the image elsewhere, for example with docker buildx or podman build, and load it (docker save IMAGE | hezi load) or push it to a registry and pull it"

// missing is a command of Docker's that does not exist yet. It is not listed,
// and says so when it is called; way says what does the same meanwhile.
func missing(name, short, way string, aliases ...string) entry {
	return entry{name: name[strings.LastIndexByte(name, ' ')+1:], aliases: aliases, short: short, hidden: true, build: notYet(name, way)}
}

func notYet(name, way string) func(*App) *cobra.Command {
	return func(*App) *cobra.Command {
		return &cobra.Command{
			Use:                "",
			Args:               cobra.ArbitraryArgs,
			DisableFlagParsing: true,
			ValidArgsFunction:  cobra.NoFileCompletions,
			RunE: func(cmd *cobra.Command, args []string) error {
				text := fmt.Sprintf("hezi: '%s' is not there yet", strings.TrimSpace("hezi "+name))
				if way != "" {
					text += ": " + way
				}
				return &exitError{code: 1, err: fmt.Errorf("%s", text)}
			},
		}
	}
}

// add puts entries below parent. Only what words names is built in full; the
// rest are names for the overview and for suggestions.
func add(a *App, parent *cobra.Command, entries []entry, words []string) {
	for _, e := range entries {
		named := a.builder || slices.ContainsFunc(words, e.is)
		cmd := &cobra.Command{Use: e.name}
		switch {
		case e.sub != nil:
			cmd.Use = e.name
			cmd.Args = groupArgs
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				return cmd.Help()
			}
			if named {
				add(a, cmd, e.sub, words)
			}
		case named:
			cmd = e.build(a)
			cmd.Use = strings.TrimSpace(e.name + " " + cmd.Use)
		default:
			cmd.Run = func(*cobra.Command, []string) {}
		}
		cmd.Short, cmd.Aliases, cmd.Hidden = e.short, e.aliases, e.hidden
		cmd.DisableFlagsInUseLine = true
		cmd.Annotations = map[string]string{}
		if e.top {
			cmd.Annotations["top"] = "1"
		}
		if e.sub != nil {
			cmd.Annotations["group"] = "1"
		}
		parent.AddCommand(cmd)
	}
}

// groupArgs refuses a subcommand that does not exist.
func groupArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("hezi: unknown command: %s %s", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = min(2, len(args[0])/2) // of a short word everything is near
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		text += "\n\nDid you mean this?\n"
		for _, s := range similar {
			text += "  " + cmd.CommandPath() + " " + s + "\n"
		}
		text = strings.TrimSuffix(text, "\n")
	}
	return fmt.Errorf("%s\n\nRun '%s --help' for more information", text, cmd.CommandPath())
}
