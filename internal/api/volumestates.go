package api

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/volume"

	"hezi/internal/engine/volumes"
	hostvolume "hezi/internal/volume"
)

// VolumeStates is what the handlers of /hezi/volumes need that copy what volumes
// hold. volumes.Archives has it.
type VolumeStates interface {
	Clone(ctx context.Context, name, to string, pause bool) (volume.Volume, error)
	Rename(ctx context.Context, name, to string) (volume.Volume, error)
	Protect(ctx context.Context, name string, on bool) error
	Snapshot(ctx context.Context, name, as string, pause bool) (hostvolume.Snapshot, error)
	Snapshots(ctx context.Context, name string) ([]hostvolume.Snapshot, error)
	RemoveSnapshot(ctx context.Context, name, snapshot string) error
	RestoreSnapshot(ctx context.Context, name, snapshot string) error
	Export(ctx context.Context, name string, pause bool) (*volumes.Archive, error)
	Import(ctx context.Context, q volume.CreateRequest, archive io.Reader) (volume.Volume, error)
}

// VolumeTrash is what they need of removed volumes. volume.Bin has it.
type VolumeTrash interface {
	RemoveNow(ctx context.Context, name string, force bool) error
	Trash(ctx context.Context) ([]hostvolume.Removed, error)
	Undo(ctx context.Context, name, as string) (volume.Volume, error)
	EmptyTrash(ctx context.Context, name string) (freed int64, err error)
}

var volumeStateRoutes = []route{
	{method: "GET", path: "/hezi/volumes/{name}/export", handle: volumeExport},
	{method: "POST", path: "/hezi/volumes/{name}/import", handle: volumeImport},
	{method: "POST", path: "/hezi/volumes/{name}/clone", handle: volumeClone},
	{method: "POST", path: "/hezi/volumes/{name}/rename", handle: volumeRename},
	{method: "POST", path: "/hezi/volumes/{name}/protect", handle: volumeProtect(true)},
	{method: "POST", path: "/hezi/volumes/{name}/unprotect", handle: volumeProtect(false)},
	{method: "GET", path: "/hezi/volumes/{name}/snapshots", handle: volumeSnapshots},
	{method: "POST", path: "/hezi/volumes/{name}/snapshots", handle: volumeSnapshot},
	{method: "DELETE", path: "/hezi/volumes/{name}/snapshots", handle: volumeSnapshotRemove},
	{method: "POST", path: "/hezi/volumes/{name}/restore", handle: volumeRestore},
	{method: "POST", path: "/hezi/volumes/{name}/undo", handle: volumeUndo},
	{method: "GET", path: "/hezi/trash/volumes", handle: volumeTrash},
	{method: "DELETE", path: "/hezi/trash/volumes", handle: volumeTrashEmpty},
}

func volumeExport(c *call) error {
	a, err := c.backend.VolumeStates.Export(c.ctx(), c.arg, c.flag("pause"))
	if err != nil {
		return err
	}
	defer a.Close()
	plain := c.flag("plain")
	kind := "application/zstd"
	if plain {
		kind = "application/x-tar"
	}
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusOK)
	return cutOff(c, a.Write(c.ctx(), plain, c.w))
}

func volumeImport(c *call) error {
	q := volume.CreateRequest{Name: c.arg, Labels: map[string]string{}, DriverOpts: map[string]string{}}
	for _, l := range c.query()["label"] {
		key, value, _ := strings.Cut(l, "=")
		q.Labels[key] = value
	}
	if size := c.get("size"); size != "" {
		q.DriverOpts["size"] = size
	}
	return answerVolume(c, http.StatusCreated)(c.backend.VolumeStates.Import(c.ctx(), q, c.r.Body))
}

func volumeClone(c *call) error {
	return answerVolume(c, http.StatusCreated)(c.backend.VolumeStates.Clone(c.ctx(), c.arg, c.get("to"), c.flag("pause")))
}

func volumeRename(c *call) error {
	return answerVolume(c, http.StatusOK)(c.backend.VolumeStates.Rename(c.lasting(), c.arg, c.get("name")))
}

func volumeProtect(on bool) func(*call) error {
	return func(c *call) error {
		return c.noContent(c.backend.VolumeStates.Protect(c.lasting(), c.arg, on))
	}
}

func volumeSnapshots(c *call) error {
	list, err := c.backend.VolumeStates.Snapshots(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}

func volumeSnapshot(c *call) error {
	made, err := c.backend.VolumeStates.Snapshot(c.ctx(), c.arg, c.get("snapshot"), c.flag("pause"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, made)
}

func volumeSnapshotRemove(c *call) error {
	return c.noContent(c.backend.VolumeStates.RemoveSnapshot(c.lasting(), c.arg, c.get("snapshot")))
}

func volumeRestore(c *call) error {
	return c.noContent(c.backend.VolumeStates.RestoreSnapshot(c.lasting(), c.arg, c.get("snapshot")))
}

func volumeUndo(c *call) error {
	return answerVolume(c, http.StatusCreated)(c.backend.VolumeTrash.Undo(c.lasting(), c.arg, c.get("as")))
}

func volumeTrash(c *call) error {
	list, err := c.backend.VolumeTrash.Trash(c.ctx())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}

func volumeTrashEmpty(c *call) error {
	freed, err := c.backend.VolumeTrash.EmptyTrash(c.lasting(), c.get("name"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, struct{ SpaceReclaimed int64 }{freed})
}

// answerVolume answers with a volume, or with an error.
func answerVolume(c *call, status int) func(volume.Volume, error) error {
	return func(v volume.Volume, err error) error {
		if err != nil {
			return err
		}
		return c.writeJSON(status, v)
	}
}
