package upkeep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// ownUsage is what Hezi adds to GET /system/df (internal/disk).
type ownUsage struct {
	DataRoot                                    string
	Total                                       int64
	Logs, Downloads, Metadata, Removed, Reserve part
	DiskSize, DiskFree                          int64
	Budget                                      *budget `json:",omitempty"`
}

type part struct{ Count, Size, Reclaimable int64 }

type budget struct {
	Limit, LowWater, Used int64
	Over                  *time.Time `json:",omitempty"`
}

// NewDF is `system df`.
func NewDF(c Client) *cobra.Command {
	var verbose bool
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS]"}
	f := cmd.Flags()
	f.BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	f.StringVar(&source, "format", "", c.ListHelp)
	cmd.RunE = c.Run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		du, own, err := usage(ctx, engine, verbose)
		if err != nil {
			return err
		}
		if !verbose {
			return summary(c.Out, source, du, own)
		}
		d := details(du, own, source == "" || strings.HasPrefix(source, "table"))
		if own != nil {
			used := map[string]int64{}
			err := engine.Images(ctx, client.ImageListOptions{All: true}, endpoint.AllOfIt, func(i *endpoint.Listed) error {
				used[i.ID] = i.LastUsed
				return nil
			})
			if err != nil {
				return err
			}
			format.SetLastUsed(d.Images, used)
		}
		return d.print(c.Out, source, du.BuildCache.TotalSize)
	})
	return cmd
}

// usage asks what the disk holds; own is nil when the engine is not Hezi.
func usage(ctx context.Context, engine *endpoint.Connection, verbose bool) (du client.DiskUsageResult, own *ownUsage, err error) {
	if engine.RequireHezi(ctx, "") != nil {
		du, err = engine.DiskUsage(ctx, client.DiskUsageOptions{Verbose: verbose})
		return du, nil, err
	}
	query := url.Values{}
	if verbose {
		query.Set("verbose", "1")
	}
	resp, err := engine.Call(ctx, http.MethodGet, "/system/df", query, nil)
	if err != nil {
		return du, nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		system.DiskUsage
		Hezi *ownUsage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return du, nil, fmt.Errorf("read what the disk holds: %w", err)
	}
	if answer.ImageUsage == nil || answer.ContainerUsage == nil || answer.VolumeUsage == nil { // of an old API version that was asked for
		du, err = engine.DiskUsage(ctx, client.DiskUsageOptions{Verbose: verbose})
		return du, answer.Hezi, err
	}
	i, c, v := answer.ImageUsage, answer.ContainerUsage, answer.VolumeUsage
	du.Images = client.ImagesDiskUsage{ActiveCount: i.ActiveCount, TotalCount: i.TotalCount, Reclaimable: i.Reclaimable, TotalSize: i.TotalSize, Items: i.Items}
	du.Containers = client.ContainersDiskUsage{ActiveCount: c.ActiveCount, TotalCount: c.TotalCount, Reclaimable: c.Reclaimable, TotalSize: c.TotalSize, Items: c.Items}
	du.Volumes = client.VolumesDiskUsage{ActiveCount: v.ActiveCount, TotalCount: v.TotalCount, Reclaimable: v.Reclaimable, TotalSize: v.TotalSize, Items: v.Items}
	return du, answer.Hezi, nil
}

// kindOf is a row of `system df`.
type kindOf struct {
	name                      string
	total, active             int64
	size, reclaimable         int64
	uncounted, plain, noShare bool
}

// MarshalJSON prints all fields.
func (k *kindOf) MarshalJSON() ([]byte, error) { return format.Fields(k) }

// Type is what the row is about.
func (k *kindOf) Type() string { return k.name }

// TotalCount is how many there are.
func (k *kindOf) TotalCount() string {
	if k.uncounted {
		return "-"
	}
	return strconv.FormatInt(k.total, 10)
}

// Active is how many are in use.
func (k *kindOf) Active() string {
	if k.plain {
		return "-"
	}
	return strconv.FormatInt(k.active, 10)
}

// Size is what they take.
func (k *kindOf) Size() string { return units.HumanSize(float64(k.size)) }

// Reclaimable is what of it can be freed, with its share where Docker has one.
func (k *kindOf) Reclaimable() string {
	if k.size > 0 && !k.noShare {
		return fmt.Sprintf("%s (%v%%)", units.HumanSize(float64(k.reclaimable)), k.reclaimable*100/k.size)
	}
	return units.HumanSize(float64(k.reclaimable))
}

var dfHeaders = format.Headers{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}

func rows(du client.DiskUsageResult, own *ownUsage) []*kindOf {
	list := []*kindOf{
		{name: "Images", total: du.Images.TotalCount, active: du.Images.ActiveCount, size: du.Images.TotalSize, reclaimable: du.Images.Reclaimable},
		{name: "Containers", total: du.Containers.TotalCount, active: du.Containers.ActiveCount, size: du.Containers.TotalSize, reclaimable: du.Containers.Reclaimable},
		{name: "Local Volumes", total: du.Volumes.TotalCount, active: du.Volumes.ActiveCount, size: du.Volumes.TotalSize, reclaimable: du.Volumes.Reclaimable},
		{name: "Build Cache", total: du.BuildCache.TotalCount, active: du.BuildCache.ActiveCount, size: du.BuildCache.TotalSize, reclaimable: du.BuildCache.Reclaimable, noShare: true},
	}
	if own != nil {
		list = append(list, ownRows(own)...)
	}
	return list
}

func ownRows(own *ownUsage) (list []*kindOf) {
	for _, p := range []struct {
		name string
		part
		uncounted bool
	}{{"Container Logs", own.Logs, false}, {"Downloads", own.Downloads, false}, {"Metadata", own.Metadata, true}, {"Being Removed", own.Removed, false}, {"Reserve", own.Reserve, true}} {
		list = append(list, &kindOf{name: p.name, total: p.Count, size: p.Size, reclaimable: p.Reclaimable, plain: true, uncounted: p.uncounted})
	}
	return list
}

const (
	dfTable = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
	dfRaw   = "type: {{.Type}}\ntotal: {{.TotalCount}}\nactive: {{.Active}}\nsize: {{.Size}}\nreclaimable: {{.Reclaimable}}\n"
)

func summary(out io.Writer, source string, du client.DiskUsageResult, own *ownUsage) error {
	p := format.Printer{Out: out, Source: source, Headers: dfHeaders}
	switch source {
	case "", "table":
		p.Source = dfTable
	case "raw":
		p.Source = dfRaw
	}
	if err := format.Rows(p, rows(du, own)); err != nil || own == nil || source != "" {
		return err
	}
	_, err := io.WriteString(out, own.sentence())
	return err
}

// sentence tells of the whole.
func (o *ownUsage) sentence() string {
	human := func(n int64) string { return units.HumanSize(float64(n)) }
	text := fmt.Sprintf("\n%s takes %s; %s of the disk's %s are free.\n", o.DataRoot, human(o.Total), human(o.DiskFree), human(o.DiskSize))
	if b := o.Budget; b != nil {
		text += fmt.Sprintf("The budget is %s without volumes, %s of it are used; beyond it unused images are removed until %s.\n", human(b.Limit), human(b.Used), human(b.LowWater))
		if b.Over != nil {
			text += "It is exceeded, and nothing more can be removed: what is left is used by containers, kept by a label, or was used just now.\n"
		}
	}
	return text
}

// detail is what a template of `system df -v` sees.
type detail struct {
	Images     []*format.Image
	Containers []*format.Container
	Volumes    []*format.Volume
	BuildCache []build.CacheRecord
	Hezi       *ownUsage `json:",omitempty"`
}

func details(du client.DiskUsageResult, own *ownUsage, trunc bool) *detail {
	d := &detail{Volumes: format.Volumes(du.Volumes.Items), BuildCache: slices.Clone(du.BuildCache.Items), Hezi: own}
	now := time.Now()
	for i := range du.Images.Items { // one row each, by the first name
		img := du.Images.Items[i]
		img.RepoTags, img.RepoDigests = img.RepoTags[:min(1, len(img.RepoTags))], nil
		du.Images.Items[i] = img
	}
	d.Images = format.Images(du.Images.Items, trunc, false, "", now)
	for i := range du.Containers.Items {
		du.Containers.Items[i].SizeRootFs = 0 // is not shown, as in Docker
	}
	d.Containers = format.Containers(du.Containers.Items, trunc, now)
	return d
}

func (d *detail) print(out io.Writer, source string, cacheSize int64) error {
	switch source {
	case "", "table":
		return d.tables(out, cacheSize)
	case "raw":
		source = rawDetails
	}
	tmpl, err := format.Template(source)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, d); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	if source != rawDetails {
		b.WriteByte('\n')
	}
	_, err = b.WriteTo(out)
	return err
}

const rawDetails = `{{range .Images}}type: Image
repository: {{.Repository}}
tag: {{.Tag}}
image_id: {{.ID}}
created_at: {{.CreatedAt}}
virtual_size: {{.Size}}

{{end -}}
{{range .Containers}}type: Container
container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{.State}}
status: {{.Status}}
names: {{.Names}}
labels: {{.Labels}}
ports: {{.Ports}}
size: {{.Size}}

{{end -}}
{{range .Volumes}}type: Volume
name: {{.Name}}
driver: {{.Driver}}

{{end -}}
`

func (d *detail) tables(out io.Writer, cacheSize int64) error {
	images := "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}"
	if d.Hezi != nil {
		images += "\t{{.LastUsedSince}}"
	}
	table := func(heading, source string, headers format.Headers) format.Printer {
		_, _ = io.WriteString(out, heading) // what follows fails in the same way
		return format.Printer{Out: out, Source: source, Headers: headers}
	}
	err := format.Rows(table("Images space usage:\n\n", images, format.ImageHeaders), d.Images)
	err = errors.Join(err, format.Rows(table("\nContainers space usage:\n\n",
		"table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}", format.ContainerHeaders), d.Containers))
	err = errors.Join(err, format.Rows(table("\nLocal Volumes space usage:\n\n", "table {{.Name}}\t{{.Links}}\t{{.Size}}", format.VolumeHeaders), d.Volumes))
	err = errors.Join(err, format.Rows(table(fmt.Sprintf("\nBuild cache usage: %s\n\n", units.HumanSize(float64(cacheSize))),
		"table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
		format.Headers{"ID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED", "LastUsedSince": "LAST USED", "UsageCount": "USAGE", "Shared": "SHARED"}), caches(d.BuildCache)))
	if err != nil || d.Hezi == nil {
		return err
	}
	if err := format.Rows(table("\nOther space usage:\n\n", "table {{.Type}}\t{{.TotalCount}}\t{{.Size}}\t{{.Reclaimable}}", dfHeaders), ownRows(d.Hezi)); err != nil {
		return err
	}
	_, err = io.WriteString(out, d.Hezi.sentence())
	return err
}

// cache is a row of the build cache.
type cache struct{ r build.CacheRecord }

func caches(list []build.CacheRecord) []*cache {
	out := make([]*cache, len(list))
	for i, r := range list {
		out[i] = &cache{r}
	}
	return out
}

// ID is the identifier.
func (c *cache) ID() string {
	return format.ShortID(c.r.ID) + strings.Repeat("*", map[bool]int{true: 1}[c.r.InUse])
}

// CacheType is what it is.
func (c *cache) CacheType() string { return c.r.Type }

// Size is its size.
func (c *cache) Size() string { return units.HumanSizeWithPrecision(float64(c.r.Size), 3) }

// CreatedSince is how long ago it was made.
func (c *cache) CreatedSince() string { return format.Ago(time.Now(), c.r.CreatedAt.Unix()) }

// LastUsedSince is how long ago it was used.
func (c *cache) LastUsedSince() string {
	if c.r.LastUsedAt == nil {
		return ""
	}
	return format.Ago(time.Now(), c.r.LastUsedAt.Unix())
}

// UsageCount is how often it was used.
func (c *cache) UsageCount() string { return strconv.Itoa(c.r.UsageCount) }

// Shared says whether several builds have it.
func (c *cache) Shared() string { return strconv.FormatBool(c.r.Shared) }
