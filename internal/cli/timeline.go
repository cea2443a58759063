package cli

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newTimelineRun(a *App) *cobra.Command {
	cmd := newRun(a)
	run := cmd.RunE
	cmd.Long = `Run a container as hezi run does, with the same options, and print what its phases took to standard error: those of hezi,
and indented those of the engine, in the order in which they happen. It begins when hezi has read its command line.`
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a.timeline = beginTimeline()
		err := run(cmd, args)
		if a.timeline.has("start") {
			a.timeline.mark("end", "the program and the rest of its output")
		} else {
			a.timeline.mark("failed", "what did not succeed")
		}
		a.Restore()
		a.timeline.print(a.Err)
		return err
	}
	return cmd
}

// timeline collects what the phases of a command took; nil collects nothing.
type timeline struct {
	began, last time.Time
	phases      []phase
	told        []phase // by the engine, of the phase that is under way
}

type phase struct {
	name, does string
	took       time.Duration
	inner      []phase
}

func beginTimeline() *timeline {
	now := time.Now()
	return &timeline{began: now, last: now}
}

// mark ends a phase.
func (t *timeline) mark(name, does string) {
	if t == nil {
		return
	}
	now := time.Now()
	t.phases = append(t.phases, phase{name, does, now.Sub(t.last), t.told})
	t.last, t.told = now, nil
}

// has says whether a phase has ended.
func (t *timeline) has(name string) bool {
	return slices.ContainsFunc(t.phases, func(p phase) bool { return p.name == name })
}

// timelineHeader asks Hezi's engine for its phases; others pass over it.
const timelineHeader = "Hezi-Timeline"

// asked gives headers with the question for phases in them.
func (t *timeline) asked(headers map[string]string) map[string]string {
	if t == nil {
		return headers
	}
	headers = maps.Clone(headers)
	if headers == nil {
		headers = map[string]string{}
	}
	headers[timelineHeader] = "1"
	return headers
}

// hear has what the engine tells of its phases taken.
func (t *timeline) hear() []client.Opt {
	if t == nil {
		return nil
	}
	return []client.Opt{client.WithHTTPResponseHook(func(resp *http.Response) {
		for _, field := range resp.Header.Values("Server-Timing") {
			t.told = append(t.told, serverTiming(field)...)
		}
	})}
}

// serverTiming reads a field as hezid writes it (https://www.w3.org/TR/server-timing/).
func serverTiming(field string) []phase {
	var list []phase
	for metric := range strings.SplitSeq(field, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(metric), ";")
		p := phase{name: name}
		for param := range strings.SplitSeq(params, ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			switch key {
			case "desc":
				p.does = strings.Trim(value, `"`)
			case "dur":
				if ms, err := strconv.ParseFloat(value, 64); err == nil {
					p.took = time.Duration(ms * float64(time.Millisecond))
				}
			}
		}
		list = append(list, p)
	}
	return list
}

// print writes a table, times in milliseconds.
func (t *timeline) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	ms := func(d time.Duration) string { return fmt.Sprintf("%8.2f", float64(d)/float64(time.Millisecond)) }
	fmt.Fprintln(w, "   AT ms\t TOOK ms\tPHASE")
	at, told := time.Duration(0), false
	for _, p := range t.phases {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", ms(at), ms(p.took), p.name, p.does)
		at += p.took
		rest := p.took
		for _, i := range p.inner {
			told, rest = true, rest-i.took
			fmt.Fprintf(w, "\t%s\t  %s\t  %s\n", ms(i.took), i.name, i.does)
		}
		if len(p.inner) > 0 {
			fmt.Fprintf(w, "\t%s\t  %s\t  %s\n", ms(rest), "http", "the way to the engine and back")
		}
	}
	fmt.Fprintf(w, "%s\t\tall\n", ms(at))
	w.Flush()
	if !told && t.has("start") {
		fmt.Fprintln(out, "The engine told nothing of its phases: it is not Hezi's, or older than this command.")
	}
}
