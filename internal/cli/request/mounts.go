package request

import (
	"encoding/csv"
	"strings"

	"github.com/docker/cli/opts"
)

// mountOpt is Docker's --mount with the options idmap and match-user. The API
// has no field for them; they are sent as the consistency, which means
// something on other systems only.
type mountOpt struct{ opts.MountOpt }

func (m *mountOpt) Set(value string) error {
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return err
	}
	changed := false
	for i, f := range fields {
		if f == "idmap" || f == "match-user" {
			fields[i], changed = "consistency="+f, true
		}
	}
	if !changed {
		return m.MountOpt.Set(value)
	}
	var out strings.Builder
	w := csv.NewWriter(&out)
	if err := w.Write(fields); err != nil {
		return err
	}
	w.Flush()
	return m.MountOpt.Set(strings.TrimSuffix(out.String(), "\n"))
}
