package format

import (
	"time"

	"github.com/docker/go-units"
)

// SnapshotHeaders are the columns of `snapshots`.
var SnapshotHeaders = Headers{
	"Name": "NAME", "Container": "CONTAINER", "ContainerID": "CONTAINER ID", "CreatedAt": "CREATED AT", "CreatedSince": "CREATED", "Size": "SIZE",
}

// SnapshotSource completes the format of `snapshots`.
func SnapshotSource(source string, quiet bool) string {
	switch {
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.Name}}"
	}
	return "table {{.Container}}\t{{.Name}}\t{{.CreatedSince}}\t{{.Size}}"
}

// SnapshotSummary is what the engine tells of a snapshot.
type SnapshotSummary struct {
	Name, ContainerID, ContainerName string
	Created                          time.Time
	Size                             int64
}

// Snapshot is a row of `snapshots`.
type Snapshot struct {
	s     SnapshotSummary
	trunc bool
	now   time.Time
}

// Snapshots makes the rows of `snapshots`.
func Snapshots(list []SnapshotSummary, trunc bool, now time.Time) []*Snapshot {
	rows := make([]*Snapshot, len(list))
	for i, s := range list {
		rows[i] = &Snapshot{s, trunc, now}
	}
	return rows
}

// MarshalJSON prints all fields.
func (s *Snapshot) MarshalJSON() ([]byte, error) { return Fields(s) }

// Name is the snapshot's.
func (s *Snapshot) Name() string { return s.s.Name }

// Container is the container's name.
func (s *Snapshot) Container() string { return s.s.ContainerName }

// ContainerID is the container's identifier.
func (s *Snapshot) ContainerID() string { return shownID(s.s.ContainerID, s.trunc) }

// CreatedAt is when it was made.
func (s *Snapshot) CreatedAt() string { return time.Unix(s.s.Created.Unix(), 0).String() }

// CreatedSince is how long ago that was.
func (s *Snapshot) CreatedSince() string { return Ago(s.now, s.s.Created.Unix()) }

// Size is what was written since the snapshot before; N/A: not known.
func (s *Snapshot) Size() string {
	if s.s.Size < 0 {
		return "N/A"
	}
	return units.HumanSizeWithPrecision(float64(s.s.Size), 3)
}
