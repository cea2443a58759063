package spec

import (
	"slices"
	"strings"

	"github.com/docker/go-units"

	"hezi/internal/box/cgroup"
)

// HugePagesLabel is the label of a container that holds its limits of huge pages: a
// label, since Docker's API has no field for them and every client can give it.
const HugePagesLabel = "hezi.hugetlb"

// HugePages reads SIZE=BYTES,SIZE=BYTES..., with units as in 2MB=64m; -1 bytes are
// no limit. An empty text is nil.
func HugePages(text string) (*cgroup.HugePages, error) {
	if text == "" {
		return nil, nil
	}
	wrong := func(item, why string) (*cgroup.HugePages, error) {
		return nil, invalid("invalid limit of huge pages %q of --hugetlb-limit (the label %s): %s", item, HugePagesLabel, why)
	}
	h := &cgroup.HugePages{}
	for item := range strings.SplitSeq(text, ",") {
		size, limit, ok := strings.Cut(item, "=")
		bytes, err := units.RAMInBytes(size)
		if !ok || err != nil || bytes < 1<<10 || bytes&(bytes-1) != 0 {
			return wrong(item, "write the size of a page and the bytes of all together, as in 2MB=64m")
		}
		p := cgroup.HugePage{Size: cgroup.PageName(bytes), Bytes: -1}
		if limit != "-1" {
			if p.Bytes, err = units.RAMInBytes(limit); err != nil || p.Bytes < 0 {
				return wrong(item, "write how many bytes there may be of these pages, as in 2MB=64m; 0 is none, -1 is no limit")
			}
		}
		switch {
		case p.Bytes > 0 && p.Bytes%bytes != 0:
			return wrong(item, "the limit is no multiple of "+p.Size)
		case slices.ContainsFunc(h.Limits, func(o cgroup.HugePage) bool { return o.Size == p.Size }):
			return wrong(item, "pages of "+p.Size+" have a limit already")
		}
		h.Limits = append(h.Limits, p)
	}
	return h, nil
}

// EnforceHugePages is an error for what this host cannot limit.
func EnforceHugePages(h *cgroup.HugePages, host cgroup.Support) error {
	if h == nil {
		return nil
	}
	if !host.HugePages {
		return invalid("the use of huge pages cannot be limited: the hugetlb cgroup controller is not in the kernel, not mounted, or, on a hybrid host, on cgroup v2: leave out --hugetlb-limit (the label %s)", HugePagesLabel)
	}
	for _, p := range h.Limits {
		if !slices.Contains(host.HugePageSizes, p.Size) {
			return invalid("huge pages of %s cannot be limited: this host's are of %s", p.Size, strings.Join(host.HugePageSizes, " and "))
		}
	}
	return nil
}

// ChangedHugePages makes before into after: sizes that have no limit any more are lifted.
func ChangedHugePages(before, after *cgroup.HugePages) *cgroup.HugePages {
	out := &cgroup.HugePages{}
	if after != nil {
		out.Limits = slices.Clone(after.Limits)
	}
	if before == nil {
		return out
	}
	for _, p := range before.Limits {
		if !slices.ContainsFunc(out.Limits, func(o cgroup.HugePage) bool { return o.Size == p.Size }) {
			out.Limits = append(out.Limits, cgroup.HugePage{Size: p.Size, Bytes: -1})
		}
	}
	return out
}
