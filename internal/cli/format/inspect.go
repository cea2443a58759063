package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/template"
)

// Inspection prints objects in full: an indented JSON list, one line of JSON
// ("json"), or what a template makes of each.
type Inspection struct {
	tmpl    *template.Template // nil for JSON
	compact bool
	raw     []json.RawMessage
	buf     bytes.Buffer
}

// NewInspection parses the format first, before the engine is asked.
func NewInspection(format string) (*Inspection, error) {
	switch format {
	case "":
		return &Inspection{}, nil
	case "json":
		return &Inspection{compact: true}, nil
	}
	tmpl, err := Template(format)
	if err != nil {
		return nil, err
	}
	return &Inspection{tmpl: tmpl}, nil
}

// Add takes one object: typed for a template, and as the engine wrote it. A
// template that the typed object does not satisfy is tried on the raw one,
// which has the fields that this client does not know.
func (i *Inspection) Add(typed any, raw []byte) error {
	if raw == nil {
		var err error
		if raw, err = json.Marshal(typed); err != nil {
			return err
		}
	}
	if i.tmpl == nil {
		i.raw = append(i.raw, raw)
		return nil
	}
	var out bytes.Buffer
	if err := i.tmpl.Execute(&out, typed); err != nil {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var generic any
		if dec.Decode(&generic) != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		out.Reset()
		if genericErr := i.tmpl.Option("missingkey=error").Execute(&out, generic); genericErr != nil {
			return fmt.Errorf("template parsing error: %w", genericErr)
		}
	}
	i.buf.Write(out.Bytes())
	i.buf.WriteByte('\n')
	return nil
}

// Flush prints what was added.
func (i *Inspection) Flush(out io.Writer) error {
	if i.tmpl != nil {
		if i.buf.Len() == 0 {
			i.buf.WriteByte('\n')
		}
		_, err := i.buf.WriteTo(out)
		return err
	}
	list := []byte("[]")
	if len(i.raw) > 0 {
		list = append([]byte("["), bytes.Join(rawSlices(i.raw), []byte(","))...)
		list = append(list, ']')
		var err error
		if i.compact {
			var b bytes.Buffer
			err = json.Compact(&b, list)
			list = b.Bytes()
		} else {
			var b bytes.Buffer
			err = json.Indent(&b, list, "", "    ")
			list = b.Bytes()
		}
		if err != nil {
			return fmt.Errorf("the engine's answer is not JSON: %w", err)
		}
	}
	_, err := out.Write(append(list, '\n'))
	return err
}

func rawSlices(raw []json.RawMessage) [][]byte {
	out := make([][]byte, len(raw))
	for i, r := range raw {
		out[i] = bytes.TrimSpace(r)
	}
	return out
}
