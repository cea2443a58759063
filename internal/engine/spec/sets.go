package spec

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// CheckSets holds the sets of processors and memory nodes against those online.
func CheckSets(r *container.Resources) error {
	for _, set := range []struct{ asked, file, what string }{
		{r.CpusetCpus, "/sys/devices/system/cpu/online", "CPUs"},
		{r.CpusetMems, "/sys/devices/system/node/online", "memory nodes"},
	} {
		if err := checkSet(set.asked, set.file, set.what); err != nil {
			return err
		}
	}
	return nil
}

// checkSet compares a list such as 0-3,5 with the one that a file of the kernel has.
func checkSet(asked, file, what string) error {
	if asked == "" {
		return nil
	}
	want, err := parseSet(asked)
	if err != nil {
		return invalid("Invalid value %s for the set of %s: write a list such as 0-1 or 0,2", asked, what)
	}
	b, err := os.ReadFile(file)
	if err != nil { // the kernel says so when it does not have them
		return nil
	}
	text := strings.TrimSpace(string(b))
	have, err := parseSet(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, n := range want {
		if !slices.Contains(have, n) {
			return invalid("Requested %s are not available - requested %s, available: %s", what, asked, text)
		}
	}
	return nil
}

// parseSet reads the kernel's lists of numbers (cpuset(7)).
func parseSet(s string) (list []int, err error) {
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 13)
		if err != nil {
			return nil, err
		}
		last, err := strconv.ParseUint(to, 10, 13)
		if err != nil {
			return nil, err
		}
		for n := first; n <= last; n++ {
			list = append(list, int(n))
		}
	}
	return list, nil
}
