package upkeep

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
	"hezi/internal/cli/term"
)

// checkEvent is a line of POST /system/check (internal/image/check).
type checkEvent struct {
	Progress *checkProgress
	Problem  *checkProblem
	Report   *checkReport
	Error    string
}

type checkProgress struct {
	Doing, ID      string
	Current, Total int64
}

type checkProblem struct {
	Kind, ID, What              string
	Details, Images, Containers []string
	Repaired                    bool
	Remedy                      string
}

type checkReport struct {
	Content               bool
	Images, Blobs, Layers int
	Bytes                 int64
	Problems              []checkProblem
	Repaired, Remaining   int
	Unverified            []string
}

// NewCheck is `system check`, Hezi's own. The exit code is 1 if something stays bad.
func NewCheck(c Client) *cobra.Command {
	var content, repair bool
	var source string
	cmd := &cobra.Command{
		Use:  "[OPTIONS]",
		Long: "Verify what the engine has on disk. Databases, sizes and folders are always looked at; --images reads the content of every image and unpacked layer, too.",
	}
	f := cmd.Flags()
	f.BoolVar(&content, "images", false, "Read every blob and every file of unpacked layers, and compare them with their digests")
	f.BoolVar(&repair, "repair", false, "Fetch again what is bad, and only that, and unpack it again")
	f.StringVarP(&source, "format", "f", "", c.FormatHelp)
	cmd.RunE = c.Run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		tmpl, err := format.Template(source)
		if err != nil {
			return c.Exit(64, err)
		}
		if err := engine.RequireHezi(ctx, "system check"); err != nil {
			return err
		}
		header := http.Header{}
		if repair {
			if err := c.credentials(header); err != nil {
				return err
			}
		}
		query := url.Values{}
		for name, on := range map[string]bool{"images": content, "repair": repair} {
			if on {
				query.Set(name, "1")
			}
		}
		resp, err := engine.Call(ctx, http.MethodPost, "/system/check", query, header)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var quiet io.Writer = c.Out
		if source != "" {
			quiet = io.Discard
		}
		report, err := c.followCheck(resp.Body, quiet)
		if err != nil {
			return err
		}
		if source != "" {
			var b bytes.Buffer
			if err := tmpl.Execute(&b, report); err != nil {
				return err
			}
			fmt.Fprintln(c.Out, b.String())
		} else {
			fmt.Fprintln(c.Out, report.summary())
		}
		if report.Remaining > 0 {
			return c.Exit(1, nil)
		}
		return nil
	})
	return cmd
}

// credentials sends the credentials for every registry, as a build does:
// the engine alone knows which it will ask.
func (c Client) credentials(header http.Header) error {
	cfg, err := c.Config()
	if err != nil {
		return err
	}
	all, err := cfg.GetAllCredentials()
	if err != nil {
		return fmt.Errorf("resolving credentials failed: %w", err)
	}
	if len(all) == 0 {
		return nil
	}
	body, err := json.Marshal(all)
	if err != nil {
		return err
	}
	header.Set("X-Registry-Config", base64.URLEncoding.EncodeToString(body))
	return nil
}

// followCheck prints problems as they come, and on a terminal how far it is.
func (c Client) followCheck(body io.Reader, out io.Writer) (*checkReport, error) {
	draw := out == c.Out && term.IsTerminal(c.Out)
	clear := func() {
		if draw {
			_, _ = io.WriteString(out, "\r\x1b[K") // a terminal that is gone is no failure of the check
		}
	}
	in := bufio.NewReader(body)
	for {
		var e checkEvent
		line, err := in.ReadBytes('\n')
		if len(line) == 0 {
			clear()
			if errors.Is(err, io.EOF) {
				err = errors.New("the engine ended before the check was through: look into its log")
			}
			return nil, err
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read what the engine found: %w", err)
		}
		switch {
		case e.Error != "":
			clear()
			return nil, errors.New("Error response from daemon: " + e.Error)
		case e.Report != nil:
			clear()
			return e.Report, nil
		case e.Problem != nil:
			clear()
			_, _ = io.WriteString(out, e.Problem.text())
		case e.Progress != nil && draw:
			clear()
			_, _ = io.WriteString(out, e.Progress.text())
		}
	}
}

func (p *checkProgress) text() string {
	switch p.Doing {
	case "blobs":
		return fmt.Sprintf("Reading blobs: %s of %s", units.HumanSize(float64(p.Current)), units.HumanSize(float64(p.Total)))
	case "layers":
		return fmt.Sprintf("Reading layers: %d of %d", p.Current, p.Total)
	}
	return strings.ToUpper(p.Doing[:1]) + p.Doing[1:] + " " + format.ShortID(p.ID)
}

func (p *checkProblem) text() string {
	var b strings.Builder
	name := p.Kind
	if p.ID != "" {
		name += " " + p.ID
	}
	fmt.Fprintf(&b, "%s: %s\n", name, p.What)
	for _, d := range p.Details {
		fmt.Fprintf(&b, "    %s\n", d)
	}
	if len(p.Images) > 0 {
		fmt.Fprintf(&b, "  of %s\n", strings.Join(p.Images, ", "))
	}
	switch {
	case p.Repaired:
		fmt.Fprintf(&b, "  repaired: %s\n", p.Remedy)
	case p.Remedy != "":
		fmt.Fprintf(&b, "  %s\n", p.Remedy)
	}
	return b.String()
}

func (r *checkReport) summary() string {
	text := fmt.Sprintf("Checked %s, %s and %s", count(r.Images, "image"), count(r.Blobs, "blob"), count(r.Layers, "layer"))
	if r.Content {
		text += fmt.Sprintf(" (%s of blobs were read)", units.HumanSize(float64(r.Bytes)))
	} else {
		text += " without reading their content (--images does)"
	}
	switch n := len(r.Problems); {
	case n == 0:
		text += ": nothing is wrong."
	case r.Remaining == 0:
		text += fmt.Sprintf(": %s found and repaired.", count(n, "problem"))
	default:
		text += fmt.Sprintf(": %s found, %d repaired, %d left.", count(n, "problem"), r.Repaired, r.Remaining)
	}
	if n := len(r.Unverified); n > 0 {
		text += fmt.Sprintf("\n%s could not be verified: neither a record of its files nor its blob is there.", count(n, "layer"))
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
