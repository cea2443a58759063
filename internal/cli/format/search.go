package format

import (
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/registry"
)

// SearchHeaders are the columns of `search`.
var SearchHeaders = Headers{"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}

// SearchSource completes the format of `search`.
func SearchSource(source string) string {
	if source == "" || source == "table" {
		return "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
	}
	return source
}

// Result is a row of `search`.
type Result struct {
	r     registry.SearchResult
	trunc bool
	json  bool
}

// Found makes the rows of `search`.
func Found(list []registry.SearchResult, trunc bool) []*Result {
	rows := make([]*Result, len(list))
	for i, r := range list {
		rows[i] = &Result{r: r, trunc: trunc}
	}
	return rows
}

// MarshalJSON prints all fields.
func (r *Result) MarshalJSON() ([]byte, error) {
	r.json = true
	return Fields(r)
}

// Name is the repository's.
func (r *Result) Name() string { return r.r.Name }

// Description is one line.
func (r *Result) Description() string {
	s := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.r.Description)
	if r.trunc {
		return Ellipsis(s, 45)
	}
	return s
}

// StarCount is how many people like it.
func (r *Result) StarCount() string { return strconv.Itoa(r.r.StarCount) }

// IsOfficial says whether it is one of Docker's own.
func (r *Result) IsOfficial() string {
	switch {
	case r.json:
		return strconv.FormatBool(r.r.IsOfficial)
	case r.r.IsOfficial:
		return "[OK]"
	}
	return ""
}
