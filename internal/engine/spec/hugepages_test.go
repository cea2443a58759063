package spec

import (
	"reflect"
	"strings"
	"testing"

	"hezi/internal/box/cgroup"
)

func TestHugePages(t *testing.T) {
	pages := func(list ...cgroup.HugePage) *cgroup.HugePages { return &cgroup.HugePages{Limits: list} }
	for text, want := range map[string]*cgroup.HugePages{
		"":                  nil,
		"2MB=64m":           pages(cgroup.HugePage{Size: "2MB", Bytes: 64 << 20}),
		"2m=4194304":        pages(cgroup.HugePage{Size: "2MB", Bytes: 4 << 20}),
		"2097152=0":         pages(cgroup.HugePage{Size: "2MB"}),
		"1GB=2g,64kb=-1":    pages(cgroup.HugePage{Size: "1GB", Bytes: 2 << 30}, cgroup.HugePage{Size: "64KB", Bytes: -1}),
		"2MB":               nil,
		"2MB=":              nil,
		"3MB=3m":            nil,
		"2MB=3m":            nil,
		"2MB=2m,2048kb=2m":  nil,
		"2MB=-2":            nil,
		"2MB=2m,":           nil,
		"512=512":           nil,
		"2MB=99999999999gb": nil,
		"../../x=2m":        nil,
		"2MB/../x=2097152":  nil,
	} {
		got, err := HugePages(text)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want != nil || text == "") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "--hugetlb-limit (the label hezi.hugetlb)") {
			t.Errorf("%q: %v", text, err)
		}
	}
	host := cgroup.Support{HugePages: true, HugePageSizes: []string{"1GB", "2MB"}}
	for want, x := range map[string]struct {
		h    *cgroup.HugePages
		host cgroup.Support
	}{
		"":                                  {pages(cgroup.HugePage{Size: "2MB"}), host},
		"this host's are of 1GB and 2MB":    {pages(cgroup.HugePage{Size: "32MB"}), host},
		"the hugetlb cgroup controller is ": {pages(cgroup.HugePage{Size: "2MB"}), cgroup.Support{HugePageSizes: []string{"2MB"}}},
	} {
		if err := EnforceHugePages(x.h, x.host); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	before, after := pages(cgroup.HugePage{Size: "2MB", Bytes: 2 << 20}, cgroup.HugePage{Size: "1GB"}), pages(cgroup.HugePage{Size: "1GB", Bytes: 1 << 30})
	if got := ChangedHugePages(before, after); !reflect.DeepEqual(got, pages(cgroup.HugePage{Size: "1GB", Bytes: 1 << 30}, cgroup.HugePage{Size: "2MB", Bytes: -1})) {
		t.Errorf("%+v", got)
	}
	if got := ChangedHugePages(nil, nil); len(got.Limits) != 0 {
		t.Errorf("%+v", got)
	}
}
