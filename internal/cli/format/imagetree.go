package format

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
)

// Tree prints images as `images` does when nothing else is asked for: a row
// for each name, with what it takes on the disk, and a mark when a container
// uses it; with Platforms a branch for each platform below.
type Tree struct {
	Out       io.Writer
	Width     int  // of the terminal; 0 is not one
	Color     bool // of the terminal
	Platforms bool
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
	text  func(treeCells) string
}

const (
	treeGap     = 3
	treeMinName = 12 // columns go before names become narrower
	untagged    = "<untagged>"

	bold, faint, blue, chip, plain = "\x1b[1m", "\x1b[2m", "\x1b[1;34m", "\x1b[30;106m", "\x1b[0m"
)

// Print writes the images, sorted by name.
func (t Tree) Print(list []image.Summary) error {
	rows := t.rows(list)
	mark, none := "U", " "
	if t.Color {
		mark, none = t.paint(chip, " U "), "   "
	}
	used := slices.ContainsFunc(rows, func(r treeRow) bool { return r.cells.used })
	columns := []treeColumn{
		{"ID", 12, false, func(c treeCells) string { return ShortID(c.id) }},
		{"DISK USAGE", 10, true, func(c treeCells) string { return c.disk }},
		{"CONTENT SIZE", 12, true, func(c treeCells) string { return c.content }},
		{"EXTRA", len("EXTRA"), false, func(c treeCells) string {
			switch {
			case c.used:
				return mark
			case used:
				return none
			}
			return ""
		}},
	}
	width, columns := t.fit(rows, columns)
	var b bytes.Buffer
	if t.Width > 0 {
		legend := "U In Use"
		fmt.Fprintf(&b, "%s%s%s\n", strings.Repeat(" ", max(0, t.Width-len(" Info -> "+legend))), " Info -> ", legend)
	}
	b.WriteString(t.cell(bold, "IMAGE", width, false))
	for _, c := range columns {
		b.WriteString(strings.Repeat(" ", treeGap) + t.cell(bold, c.title, c.width, c.right))
	}
	b.WriteByte('\n')
	spaced := slices.ContainsFunc(rows, func(r treeRow) bool { return len(r.branches) > 0 })
	for _, r := range rows {
		t.name(&b, r.names, width)
		t.cells(&b, columns, r.cells)
		if spaced {
			b.WriteByte('\n')
		}
		for i, branch := range r.branches {
			arm := "├─ "
			if i == len(r.branches)-1 {
				arm = "└─ "
			}
			b.WriteString(t.cell("", arm+branch.names[0], width, false))
			t.cells(&b, columns, branch.cells)
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
	}
	_, err := b.WriteTo(t.Out)
	return err
}

// rows makes a row for each name, or for each image with its platforms.
func (t Tree) rows(list []image.Summary) []treeRow {
	var rows []treeRow
	for _, i := range list {
		top := treeRow{names: slices.Sorted(slices.Values(i.RepoTags)), cells: treeCells{id: i.ID, disk: precise(i.Size), used: i.Containers > 0}}
		var content int64
		for _, m := range i.Manifests {
			content += m.Size.Content
			if m.Kind != image.ManifestKindImage || m.ImageData == nil {
				continue
			}
			used := len(m.ImageData.Containers) > 0
			top.cells.used = top.cells.used || used
			p := m.ImageData.Platform
			top.branches = append(top.branches, treeRow{
				names: []string{Platform(p.OS, p.Architecture, p.Variant)},
				cells: treeCells{id: m.ID, disk: precise(m.Size.Total), content: precise(m.Size.Content), used: used},
			})
		}
		top.cells.content = precise(content)
		if t.Platforms {
			rows = append(rows, top)
			continue
		}
		top.branches = nil
		if len(top.names) == 0 {
			rows = append(rows, top)
		}
		for _, n := range top.names {
			rows = append(rows, treeRow{names: []string{n}, cells: top.cells})
		}
	}
	slices.SortStableFunc(rows, func(x, y treeRow) int { // those without a name are last
		switch {
		case len(x.names) > 0 && len(y.names) > 0:
			return strings.Compare(x.names[0], y.names[0])
		case len(x.names) != len(y.names):
			return len(y.names) - len(x.names)
		}
		return 0
	})
	return rows
}

func precise(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// fit gives the names' width, and leaves columns out that a narrow terminal
// has no room for.
func (t Tree) fit(rows []treeRow, columns []treeColumn) (int, []treeColumn) {
	widest := len("IMAGE")
	for _, r := range rows {
		for _, n := range append(slices.Clone(r.names), "") {
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
func (t Tree) name(b *bytes.Buffer, names []string, width int) {
	if len(names) == 0 {
		b.WriteString(t.cell(faint, untagged, width, false))
	}
	for i, n := range names {
		b.WriteString(t.cell(blue, n, width, false))
		tooWide := utf8.RuneCountInString(n) > width
		if i < len(names)-1 || tooWide {
			b.WriteByte('\n')
		}
		if i == len(names)-1 && tooWide {
			b.WriteString(strings.Repeat(" ", width))
		}
	}
}

func (t Tree) cells(b *bytes.Buffer, columns []treeColumn, c treeCells) {
	for _, col := range columns {
		text := col.text(c)
		shown := utf8.RuneCountInString(text)
		if t.Color && col.title == "EXTRA" && text != "" {
			shown = 3 // without its colours
		}
		pad := strings.Repeat(" ", max(0, col.width-shown))
		if col.right {
			text = pad + text
		} else {
			text += pad
		}
		b.WriteString(strings.Repeat(" ", treeGap) + text)
	}
}

// cell pads text to a width, and paints it on a terminal.
func (t Tree) cell(color, text string, width int, right bool) string {
	pad := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
	if right {
		return pad + t.paint(color, text)
	}
	return t.paint(color, text) + pad
}

func (t Tree) paint(color, text string) string {
	if !t.Color || color == "" {
		return text
	}
	return color + text + plain
}
