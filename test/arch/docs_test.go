package arch

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// elsewhere are pages whose translation has another name; all others of docs/ have
// theirs by the same name in docs/zh.
var elsewhere = map[string]string{
	"README.md":       "README.zh.md",
	"ARCHITECTURE.md": "docs/zh/architecture.md",
	"CONTRIBUTING.md": "docs/zh/contributing.md",
	"SECURITY.md":     "docs/zh/security-policy.md",
}

// english are the folders below docs/ that are not translated.
var english = []string{"docs/adr/"}

// page is a document of Markdown as far as a translation must keep it.
type page struct {
	Name     string
	Headings []int             // their levels
	Anchors  []string          // of headings
	Rows     []int             // of each table, with its head
	Blocks   [][]string        // of code: the opening line and the lines, without comments
	Links    []string          // as they are written
	Facts    map[string]string // options, figures and quoted code: the line of each
}

// pages are the project's documents by their path from its root.
func pages(t *testing.T) map[string]*page {
	t.Helper()
	all := map[string]*page{}
	read := func(name string) {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = parsePage(name, string(text))
	}
	top, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range top {
		read(filepath.Base(p))
	}
	err = fs.WalkDir(os.DirFS("../.."), "docs", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(p, ".md") {
			read(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	comments = regexp.MustCompile(`\s+(#|//)\s.*|\s{2,}.*`)
	slots    = regexp.MustCompile(`<[^<>]*>`)
	links    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	spans    = regexp.MustCompile("`([^`]+)`")
	names    = regexp.MustCompile(`[A-Z]{2,}|\p{Han}`) // what the reader puts in
	months   = regexp.MustCompile(`\d+ 月`)
	facts    = regexp.MustCompile(`(?:^|[^\w-])(--[a-z][a-z0-9-]*)|\d[\d.,/:]*\d|\d`)
)

func parsePage(name, text string) *page {
	p := &page{Name: name, Facts: map[string]string{}}
	var block []string
	fence, rows, blank := "", 0, true
	var prose strings.Builder
	for line := range strings.Lines(text + "\n") {
		line = strings.TrimRight(line, "\n")
		indented := fence == "" && strings.HasPrefix(line, "    ") && (blank || len(block) > 0)
		switch {
		case fence != "" && line == fence:
			p.Blocks, block, fence = append(p.Blocks, bare(block)), nil, ""
			continue
		case fence != "" || indented:
			block = append(block, line)
			continue
		case strings.HasPrefix(line, "```"):
			fence, block = "```", []string{line}
			continue
		case len(block) > 0:
			p.Blocks, block = append(p.Blocks, bare(block)), nil
		}
		blank = line == ""
		prose.WriteString(line + " ")
		if strings.HasPrefix(line, "|") {
			rows++
		} else if rows > 0 {
			p.Rows, rows = append(p.Rows, rows), 0
		}
		if level := len(line) - len(strings.TrimLeft(line, "#")); level > 0 && strings.HasPrefix(line[level:], " ") {
			p.Headings, p.Anchors = append(p.Headings, level), append(p.Anchors, slug(line[level+1:]))
		}
		for _, l := range links.FindAllStringSubmatch(line, -1) {
			p.Links = append(p.Links, l[1])
		}
		for _, f := range facts.FindAllStringSubmatch(months.ReplaceAllString(links.ReplaceAllString(line, "]"), ""), -1) {
			fact := f[1]
			if fact == "" {
				fact = strings.TrimRight(f[0], ".,:/")
			}
			p.Facts[fact] = line
		}
	}
	for _, s := range spans.FindAllStringSubmatch(prose.String(), -1) {
		if quoted := strings.Join(strings.Fields(s[1]), " "); !names.MatchString(quoted) {
			p.Facts["`"+quoted+"`"] = quoted
		}
	}
	return p
}

// bare is a block of code without what a translation may say in its own words: comments,
// what stands in columns, and slots as <this repository>. Of prose and of a drawing nothing is left.
func bare(block []string) []string {
	drawing := slices.ContainsFunc(block, func(line string) bool { return strings.Contains(line, "▶") })
	if block[0] == "```text" {
		return block[:1]
	}
	for i, line := range block {
		if drawing {
			line = ""
		}
		block[i] = slots.ReplaceAllString(comments.ReplaceAllString(strings.TrimSpace(line), ""), "<>")
	}
	return block
}

// slug is the anchor that renderers of Markdown make of a heading.
func slug(heading string) string {
	heading = links.ReplaceAllString(heading, "]")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// translations are the Chinese pages by the English ones.
func translations(all map[string]*page) map[string]string {
	pairs := map[string]string{}
	for name := range all {
		switch {
		case elsewhere[name] != "":
			pairs[name] = elsewhere[name]
		case !strings.HasPrefix(name, "docs/"), strings.HasPrefix(name, "docs/zh/"):
		case slices.ContainsFunc(english, func(dir string) bool { return strings.HasPrefix(name, dir) }):
		default:
			pairs[name] = "docs/zh/" + strings.TrimPrefix(name, "docs/")
		}
	}
	return pairs
}

// TestTranslated fails when a page says in Chinese what it does not say in English, as far
// as that can be seen without reading it.
func TestTranslated(t *testing.T) {
	all := pages(t)
	pairs := translations(all)
	originals := map[string]bool{}
	for from, to := range pairs {
		originals[to] = true
		if all[to] == nil {
			t.Errorf("%s has no translation %s", from, to)
			continue
		}
		for _, d := range differences(all[from], all[to]) {
			t.Errorf("%s is not a translation of %s: %s", to, from, d)
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "docs/zh/") && !originals[name] {
			t.Errorf("%s is the translation of no page", name)
		}
	}
}

// differences are what two pages should have in common and have not.
func differences(en, zh *page) []string {
	var list []string
	if !slices.Equal(en.Headings, zh.Headings) {
		list = append(list, fmt.Sprintf("the headings have the levels %v and %v", en.Headings, zh.Headings))
	}
	if !slices.Equal(en.Rows, zh.Rows) {
		list = append(list, fmt.Sprintf("the tables have %v and %v rows", en.Rows, zh.Rows))
	}
	if len(en.Blocks) != len(zh.Blocks) {
		list = append(list, fmt.Sprintf("%d and %d blocks of code", len(en.Blocks), len(zh.Blocks)))
	} else {
		for i := range en.Blocks {
			if !slices.Equal(en.Blocks[i], zh.Blocks[i]) {
				list = append(list, fmt.Sprintf("block %d of code:\n%s\n---\n%s", i+1, strings.Join(en.Blocks[i], "\n"), strings.Join(zh.Blocks[i], "\n")))
			}
		}
	}
	for fact, line := range en.Facts {
		if zh.Facts[fact] == "" {
			list = append(list, fmt.Sprintf("%s is missing, of: %s", fact, line))
		}
	}
	for fact, line := range zh.Facts {
		if en.Facts[fact] == "" {
			list = append(list, fmt.Sprintf("%s is not in the original, but in: %s", fact, line))
		}
	}
	return list
}

// TestLinks fails when a link leads nowhere, or from a Chinese page to an English one that
// is translated.
func TestLinks(t *testing.T) {
	all := pages(t)
	pairs := translations(all)
	for name, p := range all {
		for _, link := range p.Links {
			file, anchor, _ := strings.Cut(link, "#")
			if strings.Contains(link, "://") {
				continue
			}
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join("../..", target)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, link)
				continue
			}
			if to := all[target]; to != nil && anchor != "" && !slices.Contains(to.Anchors, anchor) {
				t.Errorf("%s: the link %s leads to no heading of %s: %v", name, link, target, to.Anchors)
			}
			if strings.HasPrefix(name, "docs/zh/") && pairs[target] != "" && pairs[target] != name {
				t.Errorf("%s: the link %s leads to a page in English, and there is %s", name, link, pairs[target])
			}
		}
	}
}

// TestPageDifferences shows that each kind of difference is found.
func TestPageDifferences(t *testing.T) {
	const en = "# Ports\n\n`--publish` of 64 MB, `live-restore`\n\n```console\n$ hezi ps     # all\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nAs in:\n\n    hezi run IMAGE\n"
	const zh = "# 端口\n\n64 MB 的 `--publish`、`live-restore`\n\n```console\n$ hezi ps     # 全部\n```\n\n| 甲 | 乙 |\n|---|---|\n| 1 | 2 |\n\n例如：\n\n    hezi run IMAGE\n"
	if d := differences(parsePage("en", en), parsePage("zh", zh)); d != nil {
		t.Errorf("a good translation is refused: %v", d)
	}
	for _, change := range [][2]string{{"# 端口", "## 端口"}, {"64", "65"}, {"--publish", "--publish-all"}, {"live-restore", "live_restore"}, {"hezi ps", "hezi ps -a"}, {"```console", "```"},
		{"| 1 | 2 |\n", ""}, {"    hezi run IMAGE\n", ""}, {"run IMAGE", "run NAME"}} {
		bad := strings.Replace(zh, change[0], change[1], 1)
		if d := differences(parsePage("en", en), parsePage("zh", bad)); d == nil {
			t.Errorf("%q instead of %q is not found", change[1], change[0])
		}
	}
	if got := slug("The `init` of [hezi](x.md): 磁盘 预算"); got != "the-init-of-hezi-磁盘-预算" {
		t.Errorf("slug: %q", got)
	}
}
