package format

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"

	"hezi/internal/cli/endpoint"
)

// Tree prints images as `images` does when nothing else is asked for: a row
// for each name, with what it takes on the disk, and a mark when a container
// uses it; with Platforms a branch for each platform below.
type Tree struct {
	Out       io.Writer
	Width     int  // of the terminal; 0 is not one
	Color     bool // of the terminal
	Platforms bool

	rows []*treeRow
}

// treeRow is a line, or several when an image has more names than one.
type treeRow struct {
	names    []string // empty for an image without one
	cells    treeCells
	branches []treeRow
}

// treeCells are what stands right of a name.
type treeCells struct {
	id, disk, content string
	used              bool
}

// treeColumn is right of the names.
type treeColumn struct {
	title string
	width int
	right bool
	text  func(*treeCells) string
}

const (
	treeGap     = 3
	treeMinName = 12 // columns go before names become narrower
	untagged    = "<untagged>"

	bold, faint, blue, chip, plain = "\x1b[1m", "\x1b[2m", "\x1b[1;34m", "\x1b[30;106m", "\x1b[0m"
)

// Add takes an image.
func (t *Tree) Add(i *endpoint.Listed) {
	names := slices.Clone(i.RepoTags)
	slices.Sort(names)
	top := treeCells{id: i.ID, disk: precise(i.Size), used: i.Containers > 0 || i.Used}
	var branches []treeRow
	content := i.Content
	for m := range i.Manifests {
		m := &i.Manifests[m]
		content += m.Size.Content
		if m.Kind != image.ManifestKindImage {
			continue
		}
		used := len(m.ImageData.Containers) > 0
		top.used = top.used || used
		if p := m.ImageData.Platform; t.Platforms && p.OS != "" {
			branches = append(branches, treeRow{
				names: []string{Platform(p.OS, p.Architecture, p.Variant)},
				cells: treeCells{id: m.ID, disk: precise(m.Size.Total), content: precise(m.Size.Content), used: used},
			})
		}
	}
	top.content = precise(content)
	if t.Platforms || len(names) == 0 {
		t.rows = append(t.rows, &treeRow{names: names, cells: top, branches: branches})
		return
	}
	for n := range names {
		t.rows = append(t.rows, &treeRow{names: names[n : n+1 : n+1], cells: top})
	}
}

func precise(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// Print writes the images, sorted by name; those without a name are last.
func (t *Tree) Print() error {
	slices.SortStableFunc(t.rows, func(x, y *treeRow) int {
		if len(x.names) > 0 && len(y.names) > 0 {
			return strings.Compare(x.names[0], y.names[0])
		}
		return min(len(y.names), 1) - min(len(x.names), 1)
	})
	mark, none := "U", " "
	if t.Color {
		mark, none = t.paint(chip, " U "), "   "
	}
	used := slices.ContainsFunc(t.rows, func(r *treeRow) bool { return r.cells.used })
	columns := []treeColumn{
		{"ID", 12, false, func(c *treeCells) string { return ShortID(c.id) }},
		{"DISK USAGE", 10, true, func(c *treeCells) string { return c.disk }},
		{"CONTENT SIZE", 12, true, func(c *treeCells) string { return c.content }},
		{"EXTRA", len("EXTRA"), false, func(c *treeCells) string {
			switch {
			case c.used:
				return mark
			case used:
				return none
			}
			return ""
		}},
	}
	width, columns := t.fit(columns)
	w := bufio.NewWriter(t.Out)
	if t.Width > 0 {
		legend := " Info -> U In Use"
		pad(w, t.Width-len(legend))
		w.WriteString(legend + "\n")
	}
	t.cell(w, bold, "IMAGE", width, false)
	for _, c := range columns {
		pad(w, treeGap)
		t.cell(w, bold, c.title, c.width, c.right)
	}
	w.WriteByte('\n')
	spaced := slices.ContainsFunc(t.rows, func(r *treeRow) bool { return len(r.branches) > 0 })
	for _, r := range t.rows {
		t.name(w, r.names, width)
		t.cells(w, columns, &r.cells)
		if spaced {
			w.WriteByte('\n')
		}
		for i := range r.branches {
			arm := "├─ "
			if i == len(r.branches)-1 {
				arm = "└─ "
			}
			t.cell(w, "", arm+r.branches[i].names[0], width, false)
			t.cells(w, columns, &r.branches[i].cells)
			w.WriteByte('\n')
		}
		w.WriteByte('\n')
	}
	return w.Flush() // a writer keeps its first error
}

// fit gives the names' width, and leaves columns out that a narrow terminal
// has no room for.
func (t *Tree) fit(columns []treeColumn) (int, []treeColumn) {
	widest := len("IMAGE")
	for _, r := range t.rows {
		for _, n := range r.names {
			widest = max(widest, utf8.RuneCountInString(n))
		}
		if len(r.names) == 0 {
			widest = max(widest, len(untagged))
		}
		for _, b := range r.branches {
			widest = max(widest, utf8.RuneCountInString("└─ "+b.names[0]))
		}
	}
	if t.Width == 0 {
		return widest, columns
	}
	room := max(t.Width, 20)
	for i, c := range columns {
		if room-c.width-treeGap < treeMinName {
			columns = columns[:i]
			break
		}
		room -= c.width + treeGap
	}
	return min(room, widest), columns
}

// name writes each name on a line of its own; what is right of it follows the
// last one, or stands below it when that does not fit.
func (t *Tree) name(w *bufio.Writer, names []string, width int) {
	if len(names) == 0 {
		t.cell(w, faint, untagged, width, false)
	}
	for i, n := range names {
		t.cell(w, blue, n, width, false)
		tooWide := utf8.RuneCountInString(n) > width
		if i < len(names)-1 || tooWide {
			w.WriteByte('\n')
		}
		if i == len(names)-1 && tooWide {
			pad(w, width)
		}
	}
}

func (t *Tree) cells(w *bufio.Writer, columns []treeColumn, c *treeCells) {
	for _, col := range columns {
		text := col.text(c)
		shown := utf8.RuneCountInString(text)
		if t.Color && col.title == "EXTRA" && text != "" {
			shown = 3 // without its colours
		}
		pad(w, treeGap)
		if col.right {
			pad(w, col.width-shown)
		}
		w.WriteString(text)
		if !col.right {
			pad(w, col.width-shown)
		}
	}
}

// cell pads text to a width, and paints it on a terminal.
func (t *Tree) cell(w *bufio.Writer, color, text string, width int, right bool) {
	space := width - utf8.RuneCountInString(text)
	if right {
		pad(w, space)
	}
	w.WriteString(t.paint(color, text))
	if !right {
		pad(w, space)
	}
}

func pad(w *bufio.Writer, columns int) {
	for ; columns > 0; columns-- {
		w.WriteByte(' ')
	}
}

func (t *Tree) paint(color, text string) string {
	if !t.Color || color == "" {
		return text
	}
	return color + text + plain
}
