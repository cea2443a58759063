package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newEvents(a *App) *cobra.Command {
	var o client.EventsListOptions
	var source string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.StringVar(&o.Since, "since", "", "Show all events created since timestamp")
	f.StringVar(&o.Until, "until", "", "Stream events until this timestamp")
	f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	f.StringVar(&source, "format", "", inspectFormatHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		tmpl, err := eventFormat(source)
		if err != nil {
			return &exitError{code: 64, err: fmt.Errorf("Error parsing format: %w", err)}
		}
		o.Filters = filter.Value()
		now := time.Now()
		o.Since, o.Until = moment(o.Since, now), moment(o.Until, now)
		stream := engine.Events(ctx, o)
		for {
			select {
			case m := <-stream.Messages:
				if err := printEvent(a.Out, m, tmpl); err != nil {
					return err
				}
			case err := <-stream.Err:
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
	})
	return cmd
}

// eventFormat is nil for the usual line. A template is tried on an empty event
// first, before the stream begins.
func eventFormat(source string) (*template.Template, error) {
	if source == "" {
		return nil, nil
	}
	tmpl, err := format.Template(source)
	if err != nil {
		return nil, err
	}
	return tmpl, tmpl.Execute(io.Discard, &events.Message{})
}

func printEvent(out io.Writer, m events.Message, tmpl *template.Template) error {
	var b strings.Builder
	if tmpl != nil {
		if err := tmpl.Execute(&b, m); err != nil {
			return err
		}
	} else {
		const nanoFixed = "2006-01-02T15:04:05.000000000Z07:00"
		if m.TimeNano != 0 {
			b.WriteString(time.Unix(0, m.TimeNano).Format(nanoFixed) + " ")
		} else if m.Time != 0 {
			b.WriteString(time.Unix(m.Time, 0).Format(nanoFixed) + " ")
		}
		fmt.Fprintf(&b, "%s %s %s", m.Type, m.Action, m.Actor.ID)
		var attrs []string
		for _, k := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
			attrs = append(attrs, k+"="+m.Actor.Attributes[k])
		}
		if len(attrs) > 0 {
			fmt.Fprintf(&b, " (%s)", strings.Join(attrs, ", "))
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(out, b.String())
	return err
}
