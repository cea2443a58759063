package format

import (
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// StatsHeaders are the columns of `stats`.
var StatsHeaders = Headers{
	"Container": "CONTAINER", "Name": "NAME", "ID": "CONTAINER ID", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
	"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}

const statsTable = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"

// StatsSource completes the format of `stats`.
func StatsSource(source string) string {
	if source == "" || source == "table" {
		return statsTable
	}
	return source
}

// StatsRow is one container in `stats`.
type StatsRow struct {
	name  string // as it was asked for
	s     *container.StatsResponse
	trunc bool
}

// Stats makes a row of a container's counters. name is what it was asked for by.
func Stats(name string, s *container.StatsResponse, trunc bool) *StatsRow {
	return &StatsRow{name, s, trunc}
}

const noValue = "--"

// measured says whether there is a sample: a container that does not run has none.
func (r *StatsRow) measured() bool { return !r.s.Read.IsZero() }

func (r *StatsRow) Container() string { return r.name }

func (r *StatsRow) Name() string {
	if name := strings.TrimPrefix(r.s.Name, "/"); name != "" {
		return name
	}
	return noValue
}

func (r *StatsRow) ID() string { return shownID(r.s.ID, r.trunc) }

// CPUPerc is the use of processors since the sample before; 100 % is one of
// them. Without a sample before it is not known.
func (r *StatsRow) CPUPerc() string {
	now, before := &r.s.CPUStats, &r.s.PreCPUStats
	if !r.measured() || before.SystemUsage == 0 || now.SystemUsage <= before.SystemUsage {
		return noValue
	}
	cpus := float64(now.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(now.CPUUsage.PercpuUsage))
	}
	used := float64(now.CPUUsage.TotalUsage) - float64(before.CPUUsage.TotalUsage)
	return percent(max(used, 0) / float64(now.SystemUsage-before.SystemUsage) * cpus * 100)
}

// memory is what is used without the page cache that could be dropped.
func (r *StatsRow) memory() float64 {
	m := &r.s.MemoryStats
	for _, key := range []string{"total_inactive_file", "inactive_file"} { // cgroup v1, v2
		if cache, ok := m.Stats[key]; ok && cache < m.Usage {
			return float64(m.Usage - cache)
		}
	}
	return float64(m.Usage)
}

func (r *StatsRow) MemUsage() string {
	if !r.measured() {
		return noValue + " / " + noValue
	}
	return units.BytesSize(r.memory()) + " / " + units.BytesSize(float64(r.s.MemoryStats.Limit))
}

func (r *StatsRow) MemPerc() string {
	if !r.measured() || r.s.MemoryStats.Limit == 0 {
		return noValue
	}
	return percent(r.memory() / float64(r.s.MemoryStats.Limit) * 100)
}

func (r *StatsRow) NetIO() string {
	if !r.measured() {
		return noValue
	}
	var in, out float64
	for _, n := range r.s.Networks {
		in += float64(n.RxBytes)
		out += float64(n.TxBytes)
	}
	return inAndOut(in, out)
}

func (r *StatsRow) BlockIO() string {
	if !r.measured() {
		return noValue
	}
	var in, out float64
	for _, e := range r.s.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			in += float64(e.Value)
		case "write":
			out += float64(e.Value)
		}
	}
	return inAndOut(in, out)
}

func (r *StatsRow) PIDs() string {
	if !r.measured() {
		return noValue
	}
	return strconv.FormatUint(r.s.PidsStats.Current, 10)
}

func (r *StatsRow) MarshalJSON() ([]byte, error) { return Fields(r) }

func inAndOut(in, out float64) string {
	return units.HumanSizeWithPrecision(in, 3) + " / " + units.HumanSizeWithPrecision(out, 3)
}

func percent(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + "%" }
