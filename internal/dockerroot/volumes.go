package dockerroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/volume"
	bolt "go.etcd.io/bbolt"
)

// Volumes lists the volumes, and says what is wrong with those that it leaves out.
// Those of drivers that are plugins are only names here.
func (r *Root) Volumes() (_ []volume.Volume, warnings []string, _ error) {
	all := map[string]volume.Volume{}
	err := view(r.at, "volumes/metadata.db", r.volumes, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("volumes"))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, body []byte) error {
			var v volume.Volume
			if err := json.Unmarshal(body, &v); err != nil {
				warnings = append(warnings, fmt.Sprintf("volume %q: without its labels and options: what %s/volumes/metadata.db has of it is damaged: %v", k, r.path, err))
				return nil
			}
			v.Name, v.Mountpoint = string(k), ""
			if v.Driver == "" {
				v.Driver = volumeDriver
			}
			all[v.Name] = v
			return nil
		})
	})
	if err != nil {
		return nil, nil, err
	}
	entries, err := readDir(r.at, "volumes")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		name := e.Name()
		info, err := r.at.Lstat(filepath.Join("volumes", name, "_data"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("volume %s: not taken: %v", name, err))
			continue
		}
		v, known := all[name]
		if known && v.Driver != volumeDriver {
			continue
		}
		v.Name, v.Driver = name, volumeDriver
		if !info.IsDir() {
			warnings = append(warnings, fmt.Sprintf("volume %s: not taken: %s is no folder", name, filepath.Join(r.path, "volumes", name, "_data")))
			continue
		}
		v.Mountpoint = filepath.Join(r.path, "volumes", name, "_data")
		if v.Options == nil { // as before Docker kept them in metadata.db
			if v.Options, err = r.volumeOptions(name); err != nil {
				warnings = append(warnings, fmt.Sprintf("volume %s: not taken: %v", name, err))
				v.Mountpoint = ""
			}
		}
		all[name] = v
	}
	for name, v := range all {
		if v.Driver == volumeDriver && v.Mountpoint == "" {
			delete(all, name) // removed, but for the record
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) }), warnings, nil
}

const volumeDriver = "local"

// volumeOptions are what a volume was made with, as the driver keeps it.
func (r *Root) volumeOptions(name string) (map[string]string, error) {
	var o struct {
		MountType, MountOpts, MountDevice string
		Quota                             struct{ Size uint64 }
	}
	if err := readJSON(r.at, filepath.Join("volumes", name, "opts.json"), &o); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for k, v := range map[string]string{"type": o.MountType, "o": o.MountOpts, "device": o.MountDevice} {
		if v != "" {
			out[k] = v
		}
	}
	if o.Quota.Size > 0 {
		out["size"] = strconv.FormatUint(o.Quota.Size, 10)
	}
	return out, nil
}
