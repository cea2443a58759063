// Package format prints what the engine answers as Docker's command line does:
// the same columns, the same fields in templates, the same functions.
//
// A row is a pointer to a struct whose exported methods without arguments are
// the fields that a template may name; `json` prints all of them. Headers maps
// their names to the words above a table's columns.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode"

	"github.com/docker/cli/templates"
)

// Headers are the words above a table's columns by the fields' names.
type Headers map[string]string

// Label is the word above a column of one label: what follows its last dot.
func (Headers) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:])
}

// A Printer holds a list's format.
type Printer struct {
	Out    io.Writer
	Source string // "json", "table TEMPLATE" or a template

	Headers Headers
}

// IsTable says whether the format has a row of headers.
func (p Printer) IsTable() bool { return strings.HasPrefix(p.Source, "table") }

// Rows prints a list.
func Rows[R any](p Printer, rows []R) error {
	tmpl, err := Template(p.Source)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	for _, row := range rows {
		if err := tmpl.Execute(&body, row); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		body.WriteByte('\n')
	}
	if !p.IsTable() {
		_, err = body.WriteTo(p.Out)
		return err
	}
	var head bytes.Buffer
	if err := tmpl.Funcs(templates.HeaderFunctions).Execute(&head, p.Headers); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	head.WriteByte('\n')
	return Table(p.Out, append(head.Bytes(), body.Bytes()...), 10, 3)
}

// Template parses a --format: "json", "table TEMPLATE" or a template, in which
// the two characters \t and \n stand for a tabulator and a new line.
func Template(source string) (*template.Template, error) {
	if source == "json" {
		source = "{{json .}}"
	}
	source = strings.Trim(strings.TrimPrefix(source, "table"), " ")
	source = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(source)
	tmpl, err := templates.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return tmpl, nil
}

// Table aligns the tab-separated cells of text, and writes it at once.
func Table(out io.Writer, text []byte, minWidth, padding int) error {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, minWidth, 1, padding, ' ', 0)
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := buf.WriteTo(out)
	return err
}

// Fields are the values of a row's methods, for JSON.
func Fields(row any) ([]byte, error) {
	v := reflect.ValueOf(row)
	fields := map[string]any{}
	for i := range v.NumMethod() {
		m := v.Type().Method(i)
		if m.Name == "MarshalJSON" || !unicode.IsUpper(rune(m.Name[0])) || v.Method(i).Type().NumIn() != 0 || v.Method(i).Type().NumOut() != 1 {
			continue
		}
		fields[m.Name] = v.Method(i).Call(nil)[0].Interface()
	}
	return json.Marshal(fields)
}

// Ellipsis cuts s to width runes, the last of which then is an ellipsis.
func Ellipsis(s string, width int) string {
	if width <= 0 {
		return ""
	}
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	if width == 1 {
		return string(runes[:1])
	}
	return string(runes[:width-1]) + "…"
}

// ShortID is the first 12 characters of an ID without its algorithm.
func ShortID(id string) string {
	if _, after, ok := strings.Cut(id, ":"); ok {
		id = after
	}
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}

// shownID is an ID as a row has it, shortened or not.
func shownID(id string, trunc bool) string {
	if trunc {
		return ShortID(id)
	}
	return id
}
