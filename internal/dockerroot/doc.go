// Package dockerroot reads the data root of a Docker that does not run, and answers
// as its API does: what `hezi system import-docker` asks a running Docker for.
//
//	volumes/metadata.db                 bbolt: volumes by name; locked as long as dockerd runs
//	volumes/NAME/_data, opts.json       what a volume holds, and its mount options
//	network/files/local-kv.db           bbolt: networks, as JSON after 8 bytes
//	containers/ID/config.v2.json        a container
//	containers/ID/hostconfig.json       its host configuration
//	image/DRIVER/repositories.json      names of images
//	image/DRIVER/imagedb/content/...    configurations, by digest
//	image/DRIVER/layerdb/sha256/CHAIN/  diff, cache-id, tar-split.json.gz
//	DRIVER/.../CACHE-ID/...             the files of a layer
//	containerd/daemon/                  with the containerd image store, if dockerd started containerd;
//	                                    else in containerd's own root, beside Docker's
//	  io.containerd.metadata.v1.bolt/meta.db
//	  io.containerd.content.v1.content/blobs/sha256/HEX
//
// tar-split.json.gz holds all of a layer's archive but the files' content, so that the
// archive is made again to the byte, and its digest is compared with the layer's.
//
// Nothing is written. A data root may be damaged, or come from somebody else: no path
// leads out of it, sizes are bounded, and it is read in a process of its own
// (`hezid docker-root`), which can fail alone, has a limit of memory and of root's
// rights only those to read.
package dockerroot
