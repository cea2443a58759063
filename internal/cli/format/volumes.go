package format

import (
	"time"

	"github.com/docker/go-units"
)

// VolumeStateHeaders are the columns of `volume snapshots`.
var VolumeStateHeaders = Headers{"Name": "SNAPSHOT", "CreatedAt": "CREATED AT", "CreatedSince": "CREATED"}

// VolumeStateSource completes the format of `volume snapshots`.
func VolumeStateSource(source string, quiet bool) string {
	switch {
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.Name}}"
	}
	return "table {{.Name}}\t{{.CreatedSince}}"
}

// VolumeSnapshot is what the engine tells of a snapshot.
type VolumeSnapshot struct {
	Name    string
	Created time.Time
}

// VolumeState is a row of `volume snapshots`.
type VolumeState struct {
	s   VolumeSnapshot
	now time.Time
}

// VolumeStates makes the rows of `volume snapshots`.
func VolumeStates(list []VolumeSnapshot, now time.Time) []*VolumeState {
	rows := make([]*VolumeState, len(list))
	for i, s := range list {
		rows[i] = &VolumeState{s, now}
	}
	return rows
}

// MarshalJSON prints all fields.
func (s *VolumeState) MarshalJSON() ([]byte, error) { return Fields(s) }

// Name is the name.
func (s *VolumeState) Name() string { return s.s.Name }

// CreatedAt is when it was made.
func (s *VolumeState) CreatedAt() string { return s.s.Created.String() }

// CreatedSince is how long ago that was.
func (s *VolumeState) CreatedSince() string { return ago(s.now, s.s.Created) }

func ago(now, then time.Time) string { return units.HumanDuration(now.Sub(then)) + " ago" }

// TrashHeaders are the columns of `volume trash`.
var TrashHeaders = Headers{"Name": "VOLUME NAME", "RemovedAt": "REMOVED AT", "RemovedSince": "REMOVED", "Expires": "KEPT FOR", "Size": "SIZE"}

// TrashSource completes the format of `volume trash`.
func TrashSource(source string, quiet bool) string {
	switch {
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.Name}}"
	}
	return "table {{.Name}}\t{{.RemovedSince}}\t{{.Expires}}\t{{.Size}}"
}

// RemovedVolume is what the engine tells of a volume in the trash.
type RemovedVolume struct {
	Name             string
	Removed, Expires time.Time
	Size             int64
}

// Removed is a row of `volume trash`.
type Removed struct {
	v   RemovedVolume
	now time.Time
}

// RemovedVolumes makes the rows of `volume trash`.
func RemovedVolumes(list []RemovedVolume, now time.Time) []*Removed {
	rows := make([]*Removed, len(list))
	for i, v := range list {
		rows[i] = &Removed{v, now}
	}
	return rows
}

// MarshalJSON prints all fields.
func (v *Removed) MarshalJSON() ([]byte, error) { return Fields(v) }

// Name is the name.
func (v *Removed) Name() string { return v.v.Name }

// RemovedAt is when it was removed.
func (v *Removed) RemovedAt() string { return v.v.Removed.String() }

// RemovedSince is how long ago that was.
func (v *Removed) RemovedSince() string { return ago(v.now, v.v.Removed) }

// Expires is for how long it can come back.
func (v *Removed) Expires() string { return units.HumanDuration(max(0, v.v.Expires.Sub(v.now))) }

// Size is what it takes on disk.
func (v *Removed) Size() string { return units.HumanSize(float64(v.v.Size)) }
