package request

import (
	"encoding/csv"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/mount"
)

// mountOpt is Docker's --mount with the options idmap and match-user. The API
// has no field for them; they are sent as the consistency, which means
// something on other systems only.
type mountOpt struct{ opts.MountOpt }

// Mounts reads values of --mount.
func Mounts(values []string) ([]mount.Mount, error) {
	var m mountOpt
	for _, v := range values {
		if err := m.Set(v); err != nil {
			return nil, err
		}
	}
	return m.Value(), nil
}

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
