package spec

import (
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// StorageSize is --storage-opt size in bytes; 0: none.
func StorageSize(h *container.HostConfig) (int64, error) {
	for key := range h.StorageOpt {
		if key != "size" {
			return 0, invalid("Unknown option %s: of --storage-opt: the one there is is size", key)
		}
	}
	text, ok := h.StorageOpt["size"]
	if !ok {
		return 0, nil
	}
	size, err := units.RAMInBytes(text)
	if err != nil || size < 1<<20 {
		return 0, invalid("invalid size %q of --storage-opt: write a size of a megabyte or more, as in size=10G", text)
	}
	return size, nil
}
