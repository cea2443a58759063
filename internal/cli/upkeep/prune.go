package upkeep

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

// pruning is one call of a prune command.
type pruning struct {
	Client
	engine  *endpoint.Connection
	all     bool
	force   bool
	dry     bool
	now     bool // of volumes: for good
	filter  client.Filters
	without []string // containers that a dry run takes for removed
}

// pruned is what a prune removed, or would.
type pruned struct {
	text  string // a list under its heading; "" for nothing
	bytes uint64
	ids   []string
}

// kind is what one command prunes.
type kind struct {
	name    string // "container"
	short   string // in the question of `system prune`
	warning string // the question of its own command
	run     func(ctx context.Context, p *pruning) (pruned, error)
}

const sure = "\nAre you sure you want to continue?"

var (
	containerKind = kind{name: "container", short: "all stopped containers", warning: "WARNING! This will remove all stopped containers." + sure, run: pruneContainers}
	networkKind   = kind{name: "network", short: "all networks not used by at least one container",
		warning: "WARNING! This will remove all custom networks not used by at least one container." + sure, run: pruneNetworks}
	volumeKind = kind{name: "volume", short: "all anonymous volumes not used by at least one container",
		warning: "WARNING! This will remove anonymous local volumes not used by at least one container." + sure, run: pruneVolumes}
	imageKind    = kind{name: "image", short: "all dangling images", warning: "WARNING! This will remove all dangling images." + sure, run: pruneImages}
	buildKind    = kind{name: "builder", short: "unused build cache", run: pruneBuilds}
	allImages    = kind{short: "all images without at least one container associated to them", warning: "WARNING! This will remove all images without at least one container associated to them." + sure}
	allVolumes   = kind{warning: "WARNING! This will remove all local volumes not used by at least one container." + sure}
	allBuildings = "all build cache"
)

// NewContainerPrune is `container prune`.
func NewContainerPrune(c Client) *cobra.Command {
	return c.pruneCommand(containerKind, `Provide filter values (e.g. "until=<timestamp>")`, "")
}

// NewImagePrune is `image prune`.
func NewImagePrune(c Client) *cobra.Command {
	return c.pruneCommand(imageKind, `Provide filter values (e.g. "until=<timestamp>")`, "Remove all unused images, not just dangling ones")
}

// NewVolumePrune is `volume prune`.
func NewVolumePrune(c Client) *cobra.Command {
	return c.pruneCommand(volumeKind, `Provide filter values (e.g. "label=<label>")`, "Remove all unused volumes, not just anonymous ones")
}

// NewNetworkPrune is `network prune`.
func NewNetworkPrune(c Client) *cobra.Command {
	return c.pruneCommand(networkKind, `Provide filter values (e.g. "until=<timestamp>")`, "")
}

const dryRunHelp = "Show what would be removed, and how much that frees, and remove nothing"

func (c Client) pruneCommand(k kind, filterHelp, allHelp string) *cobra.Command {
	p := &pruning{Client: c}
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]"}
	f := cmd.Flags()
	if allHelp != "" {
		f.BoolVarP(&p.all, "all", "a", false, allHelp)
	}
	f.BoolVarP(&p.force, "force", "f", false, "Do not prompt for confirmation")
	if k.name != networkKind.name { // which take no space
		f.BoolVar(&p.dry, "dry-run", false, dryRunHelp)
	}
	if k.name == volumeKind.name {
		f.BoolVar(&p.now, "now", false, "Remove for good, not to the trash")
	}
	f.Var(&filter, "filter", filterHelp)
	cmd.RunE = c.Run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		p.engine = engine
		if p.now {
			if err := engine.RequireHezi(ctx, "--now"); err != nil {
				return err
			}
		}
		if err := p.take(filter.Value()); err != nil {
			return err
		}
		warning := k.warning
		switch {
		case p.all && k.name == "image":
			warning = allImages.warning
		case p.all && k.name == "volume":
			warning = allVolumes.warning
		}
		if ok, err := p.mayBegin(ctx, warning, k.name+" prune"); !ok {
			return err
		}
		got, err := k.run(ctx, p)
		if err != nil {
			return err
		}
		p.print(got.text)
		if k.name != networkKind.name {
			p.total(got.bytes)
		}
		return nil
	})
	return cmd
}

// take adds the configuration's filters to those of the flags; a label that the
// flags filter by the other way wins.
func (p *pruning) take(filters client.Filters) error {
	cfg, err := p.Config()
	if err != nil {
		return err
	}
	if p.filter = filters; p.filter == nil {
		p.filter = make(client.Filters)
	}
	for _, f := range cfg.PruneFilters {
		k, v, ok := strings.Cut(f, "=")
		if !ok || k == "label" && p.filter["label!"][v] || k == "label!" && p.filter["label"][v] {
			continue
		}
		p.filter.Add(k, v)
	}
	return nil
}

// mayBegin asks the user, unless that was forced. A no is an answer, no error.
// A dry run must reach Hezi: another engine would take it for a real one.
func (p *pruning) mayBegin(ctx context.Context, question, what string) (bool, error) {
	if p.dry {
		return true, p.engine.RequireHezi(ctx, "--dry-run")
	}
	if p.force {
		return true, nil
	}
	fmt.Fprint(p.Out, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(p.In).ReadString('\n') // no line is no
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(p.Out)
		return false, fmt.Errorf("%s has been cancelled: %w", what, context.Cause(ctx))
	case s := <-answer:
		return strings.EqualFold(s, "y") || strings.EqualFold(s, "yes"), nil
	}
}

func (p *pruning) print(text string) {
	if text != "" {
		fmt.Fprintln(p.Out, text)
	}
}

func (p *pruning) total(bytes uint64) {
	words := "Total reclaimed space:"
	if p.dry {
		words = "Total space that would be reclaimed:"
	}
	fmt.Fprintln(p.Out, words, units.HumanSize(float64(bytes)))
}

// listing is a heading with its lines, each ended.
func (p *pruning) listing(what string, lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	heading := "Deleted " + what + ":\n"
	if p.dry {
		heading = "Would delete " + strings.ToLower(what) + ":\n"
	}
	return heading + strings.Join(lines, "\n") + "\n"
}

// plan asks Hezi what a prune would do, or for one with Hezi's own parameters.
func (p *pruning) plan(ctx context.Context, path string, filters client.Filters, report any) error {
	query := url.Values{"without": p.without}
	if p.dry {
		query.Set("dry-run", "1")
	}
	if p.now {
		query.Set("now", "1")
	}
	if len(filters) > 0 {
		text, err := json.Marshal(filters)
		if err != nil {
			return err
		}
		query.Set("filters", string(text))
	}
	resp, err := p.engine.Call(ctx, http.MethodPost, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(report)
}

func pruneContainers(ctx context.Context, p *pruning) (pruned, error) {
	var report container.PruneReport
	var err error
	if p.dry {
		err = p.plan(ctx, "/containers/prune", p.filter, &report)
	} else {
		var res client.ContainerPruneResult
		res, err = p.engine.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: p.filter})
		report = res.Report
	}
	if err != nil {
		return pruned{}, err
	}
	return pruned{p.listing("Containers", report.ContainersDeleted), report.SpaceReclaimed, report.ContainersDeleted}, nil
}

func pruneImages(ctx context.Context, p *pruning) (pruned, error) {
	filters := p.filter.Clone().Add("dangling", strconv.FormatBool(!p.all))
	var report image.PruneReport
	var err error
	if p.dry {
		err = p.plan(ctx, "/images/prune", filters, &report)
	} else {
		var res client.ImagePruneResult
		res, err = p.engine.ImagePrune(ctx, client.ImagePruneOptions{Filters: filters})
		report = res.Report
	}
	if err != nil {
		return pruned{}, err
	}
	var lines []string
	for _, d := range report.ImagesDeleted {
		if d.Untagged != "" {
			lines = append(lines, "untagged: "+d.Untagged)
		} else {
			lines = append(lines, "deleted: "+d.Deleted)
		}
	}
	return pruned{text: p.listing("Images", lines), bytes: report.SpaceReclaimed}, nil
}

func pruneVolumes(ctx context.Context, p *pruning) (pruned, error) {
	filters := p.filter.Clone()
	if p.all {
		if _, ok := filters["all"]; ok {
			return pruned{}, errors.New("conflicting options: cannot specify both --all and --filter all=1")
		}
		filters.Add("all", "true")
	}
	var report volume.PruneReport
	var err error
	if p.dry || p.now {
		err = p.plan(ctx, "/volumes/prune", filters, &report)
	} else {
		var res client.VolumePruneResult
		res, err = p.engine.VolumePrune(ctx, client.VolumePruneOptions{Filters: filters})
		report = res.Report
	}
	if err != nil {
		return pruned{}, err
	}
	return pruned{text: p.listing("Volumes", report.VolumesDeleted), bytes: report.SpaceReclaimed}, nil
}

// pruneNetworks has no dry run: networks take no space.
func pruneNetworks(ctx context.Context, p *pruning) (pruned, error) {
	if p.dry {
		return pruned{}, nil
	}
	res, err := p.engine.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: p.filter})
	if err != nil {
		return pruned{}, err
	}
	return pruned{text: p.listing("Networks", res.Report.NetworksDeleted)}, nil
}

// pruneBuilds has no dry run: Hezi has no build cache.
func pruneBuilds(ctx context.Context, p *pruning) (pruned, error) {
	if p.dry {
		return pruned{}, nil
	}
	res, err := p.engine.BuildCachePrune(ctx, client.BuildCachePruneOptions{All: p.all, Filters: p.filter})
	if err != nil {
		return pruned{}, err
	}
	return pruned{text: p.listing("build cache objects", res.Report.CachesDeleted), bytes: res.Report.SpaceReclaimed}, nil
}

// NewSystemPrune is `system prune`: one prune after the other.
func NewSystemPrune(c Client) *cobra.Command {
	p := &pruning{Client: c}
	var volumes bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]"}
	f := cmd.Flags()
	f.BoolVarP(&p.force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVarP(&p.all, "all", "a", false, "Remove all unused images not just dangling ones")
	f.BoolVar(&volumes, "volumes", false, "Prune anonymous volumes")
	f.BoolVar(&p.dry, "dry-run", false, dryRunHelp)
	f.Var(&filter, "filter", `Provide filter values (e.g. "label=<key>=<value>")`)
	cmd.RunE = c.Run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		p.engine = engine
		if err := p.take(filter.Value()); err != nil {
			return err
		}
		if _, ok := filter.Value()["until"]; ok && volumes {
			return errors.New(`ERROR: The "until" filter is not supported with "--volumes"`)
		}
		kinds := []kind{containerKind, networkKind, volumeKind, imageKind, buildKind}
		if !volumes {
			kinds = slices.DeleteFunc(kinds, func(k kind) bool { return k.name == volumeKind.name })
		}
		if p.all {
			for i := range kinds {
				switch kinds[i].name {
				case imageKind.name:
					kinds[i].short = allImages.short
				case buildKind.name:
					kinds[i].short = allBuildings
				}
			}
		}
		if ok, err := p.mayBegin(ctx, question(kinds, p.filter), "system prune"); !ok || err != nil {
			return err
		}
		return p.system(ctx, kinds)
	})
	return cmd
}

func (p *pruning) system(ctx context.Context, kinds []kind) error {
	var total uint64
	for _, k := range kinds {
		one := *p
		if k.name == volumeKind.name {
			one.all = false // of images only
		}
		got, err := k.run(ctx, &one)
		if errdefs.IsNotImplemented(err) { // the engine has none
			continue
		}
		if err != nil {
			return err
		}
		if k.name == containerKind.name && p.dry {
			p.without = got.ids
		}
		p.print(got.text)
		total += got.bytes
	}
	p.total(total)
	return nil
}

// question is Docker's before `system prune`.
func question(kinds []kind, filters client.Filters) string {
	var b strings.Builder
	b.WriteString("WARNING! This will remove:")
	for _, k := range kinds {
		b.WriteString("\n  - " + k.short)
	}
	b.WriteString("\n")
	var shown []string
	for _, name := range []string{"label", "label!", "until"} {
		for _, v := range slices.Sorted(maps.Keys(filters[name])) {
			shown = append(shown, name+"="+v)
		}
	}
	if len(shown) > 0 {
		slices.SortFunc(shown, sortorder.NaturalCompare)
		b.WriteString("\n  Items to be pruned will be filtered with:")
		for _, s := range shown {
			b.WriteString("\n  - " + s)
		}
		b.WriteString("\n")
	}
	return b.String() + "\nAre you sure you want to continue?"
}
