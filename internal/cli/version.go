package cli

import (
	"bytes"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"text/template"
	"time"

	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/format"
	"hezi/internal/version"
)

const versionTemplate = `{{with .Client -}}
Client:{{if ne .Platform nil}}{{if ne .Platform.Name ""}} {{.Platform.Name}}{{end}}{{end}}
 Version:	{{.Version}}
 API version:	{{.APIVersion}}{{if ne .APIVersion .DefaultAPIVersion}} (downgraded from {{.DefaultAPIVersion}}){{end}}
 Go version:	{{.GoVersion}}
{{- if .GitCommit}}
 Git commit:	{{.GitCommit}}
{{- end}}
{{- if .BuildTime}}
 Built:	{{.BuildTime}}
{{- end}}
 OS/Arch:	{{.Os}}/{{.Arch}}
 Context:	{{.Context}}
{{- end}}

{{- if ne .Server nil}}{{with .Server}}

Server:{{if ne .Platform.Name ""}} {{.Platform.Name}}{{end}}
 {{- range $component := .Components}}
 {{$component.Name}}:
  {{- if eq $component.Name "Engine" }}
  Version:	{{.Version}}
  API version:	{{index .Details "ApiVersion"}} (minimum version {{index .Details "MinAPIVersion"}})
  {{- with index .Details "GoVersion"}}
  Go version:	{{.}}{{end}}
  {{- with index .Details "GitCommit"}}
  Git commit:	{{.}}{{end}}
  {{- with index .Details "BuildTime"}}
  Built:	{{.}}{{end}}
  OS/Arch:	{{index .Details "Os"}}/{{index .Details "Arch"}}
  {{- with index .Details "Experimental"}}
  Experimental:	{{.}}{{end}}
  {{- else }}
  Version:	{{$component.Version}}
  {{- range $key := getDetailsOrder $component}}
  {{$key}}:	{{index $component.Details $key}}
   {{- end}}
  {{- end}}
 {{- end}}
 {{- end}}{{- end}}`

// versions is what a template of `version` sees.
type versions struct {
	Client clientVersion
	Server *serverVersion
}

type platformName struct {
	Name string `json:"Name,omitempty"`
}

type clientVersion struct {
	Platform          *platformName `json:"Platform,omitempty"`
	Version           string        `json:"Version,omitempty"`
	APIVersion        string        `json:"ApiVersion,omitempty"`
	DefaultAPIVersion string        `json:"DefaultAPIVersion,omitempty"`
	GitCommit         string        `json:"GitCommit,omitempty"`
	GoVersion         string        `json:"GoVersion,omitempty"`
	Os                string        `json:"Os,omitempty"`
	Arch              string        `json:"Arch,omitempty"`
	BuildTime         string        `json:"BuildTime,omitempty"`
	Context           string        `json:"Context"`
}

type serverVersion struct {
	Platform      client.PlatformInfo       `json:"Platform"`
	Version       string                    `json:"Version"`
	APIVersion    string                    `json:"ApiVersion"`
	MinAPIVersion string                    `json:"MinAPIVersion,omitempty"`
	Os            string                    `json:"Os"`
	Arch          string                    `json:"Arch"`
	Components    []system.ComponentVersion `json:"Components,omitempty"`
	GitCommit     string                    `json:"GitCommit,omitempty"`
	GoVersion     string                    `json:"GoVersion,omitempty"`
	KernelVersion string                    `json:"KernelVersion,omitempty"`
	Experimental  bool                      `json:"Experimental,omitempty"`
	BuildTime     string                    `json:"BuildTime,omitempty"`
}

func newVersion(a *App) *cobra.Command {
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		tmpl, err := versionFormat(source)
		if err != nil {
			return &exitError{code: 64, err: err}
		}
		// The client's part is printed even when no engine answers.
		v := versions{Client: a.clientVersion()}
		engine, failed := a.Engine(cmd.Context())
		if failed == nil {
			var sv client.ServerVersionResult
			if sv, failed = engine.ServerVersion(cmd.Context(), client.ServerVersionOptions{}); failed == nil {
				v.Server = newServerVersion(sv)
			}
			v.Client.APIVersion = engine.ClientVersion()
		}
		var b bytes.Buffer
		if err := tmpl.Execute(&b, v); err != nil && failed == nil {
			return err
		}
		b.WriteByte('\n')
		if err := format.Table(a.Out, b.Bytes(), 20, 1); err != nil {
			return err
		}
		return failed
	}
	return cmd
}

func versionFormat(source string) (*template.Template, error) {
	if source != "" {
		return format.Template(source)
	}
	return templates.New("version").Funcs(template.FuncMap{
		"getDetailsOrder": func(c system.ComponentVersion) []string { return slices.Sorted(maps.Keys(c.Details)) },
	}).Parse(versionTemplate)
}

func (a *App) clientVersion() clientVersion {
	return clientVersion{
		Platform:          &platformName{Name: "Hezi"},
		Version:           version.Version,
		APIVersion:        client.MaxAPIVersion,
		DefaultAPIVersion: client.MaxAPIVersion,
		GoVersion:         runtime.Version(),
		Os:                runtime.GOOS,
		Arch:              runtime.GOARCH,
		Context:           a.contextName(),
	}
}

// newServerVersion adds the component "Engine" where an old engine lacks it.
func newServerVersion(sv client.ServerVersionResult) *serverVersion {
	out := &serverVersion{
		Platform: sv.Platform, Version: sv.Version, APIVersion: sv.APIVersion, MinAPIVersion: sv.MinAPIVersion,
		Os: sv.Os, Arch: sv.Arch, Components: sv.Components,
	}
	i := slices.IndexFunc(out.Components, func(c system.ComponentVersion) bool { return c.Name == "Engine" })
	if i < 0 {
		out.Components = append(out.Components, system.ComponentVersion{Name: "Engine", Version: sv.Version, Details: map[string]string{
			"ApiVersion": sv.APIVersion, "MinAPIVersion": sv.MinAPIVersion, "Os": sv.Os, "Arch": sv.Arch,
		}})
		return out
	}
	d := out.Components[i].Details
	if t, err := time.Parse(time.RFC3339Nano, d["BuildTime"]); err == nil {
		out.BuildTime = d["BuildTime"]
		d["BuildTime"] = t.Format(time.ANSIC)
	}
	out.GitCommit, out.GoVersion, out.KernelVersion = d["GitCommit"], d["GoVersion"], d["KernelVersion"]
	out.Experimental, _ = strconv.ParseBool(d["Experimental"]) // absent is no
	return out
}
