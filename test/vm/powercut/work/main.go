// Work keeps an engine busy inside the virtual machine of powercut.sh: a
// registry in memory, and pulls, loads, imports and removals against hezid,
// until the power goes. What the engine has acknowledged is printed.
package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const images = 4 // of each worker

// layer has many small files and one large one; all follow from the seed.
func layer(seed ...byte) []byte {
	var key [32]byte
	copy(key[:], seed)
	r := rand.NewChaCha8(key)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, size int) {
		body := make([]byte, size)
		_, _ = r.Read(body)
		check(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}))
		_, err := w.Write(body)
		check(err)
	}
	check(w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}))
	for i := range 40 {
		put(fmt.Sprintf("d/file-%d", i), int(r.Uint64()%6000))
	}
	put("d/large", 300_000)
	check(w.Close())
	return b.Bytes()
}

func image(seed byte) v1.Image {
	img := v1.Image(empty.Image)
	for i := range 3 {
		var err error
		img, err = mutate.AppendLayers(img, static.NewLayer(layer(seed, byte(i)), types.OCIUncompressedLayer))
		check(err)
	}
	c, err := img.ConfigFile()
	check(err)
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.Cmd = "linux", "amd64", []string{"/d"}
	img, err = mutate.ConfigFile(img, c)
	check(err)
	return img
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:5000")
	check(err)
	go func() { check(http.Serve(l, registry.New(registry.Logger(log.New(io.Discard, "", 0))))) }()
	var workers sync.WaitGroup
	for w := range 2 {
		for i := range images {
			seed := byte(w*images + i)
			ref, err := name.ParseReference(pullRef(w, i))
			check(err)
			check(remote.Write(ref, image(seed)))
			tag, err := name.NewTag(loadRef(w, i))
			check(err)
			check(tarball.WriteToFile(archive(w, i), tag, image(100+seed)))
			check(os.WriteFile(files(w, i), layer(200+seed), 0o600))
		}
		workers.Go(func() { work(w) })
	}
	fmt.Println("the work begins")
	workers.Wait()
}

func pullRef(w, i int) string   { return fmt.Sprintf("127.0.0.1:5000/pulled-%d:%d", w, i) }
func loadRef(w, i int) string   { return fmt.Sprintf("loaded-%d:%d", w, i) }
func importRef(w, i int) string { return fmt.Sprintf("imported-%d:%d", w, i) }
func archive(w, i int) string   { return fmt.Sprintf("/tmp/load-%d-%d.tar", w, i) }
func files(w, i int) string     { return fmt.Sprintf("/tmp/import-%d-%d.tar", w, i) }

// work adds and removes images. "has" is printed after an image was
// acknowledged, "may lose" before its removal begins.
func work(w int) {
	for {
		i := rand.N(images)
		var ref string
		var add []string
		switch rand.N(3) {
		case 0:
			ref = pullRef(w, i)
			add = []string{"pull", "-q", ref}
		case 1:
			ref = loadRef(w, i)
			add = []string{"load", "-q", "-i", archive(w, i)}
		default:
			ref = importRef(w, i)
			add = []string{"import", files(w, i), ref}
		}
		if rand.N(4) == 0 {
			fmt.Println("may lose", ref)
			_ = exec.Command("hezi", "rmi", "-f", ref).Run() // it may not be there
			continue
		}
		if out, err := exec.Command("hezi", add...).CombinedOutput(); err != nil {
			fmt.Printf("%q failed: %v %s\n", add, err, out)
			os.Exit(1)
		}
		fmt.Println("has", ref)
		name := fmt.Sprintf("box-%d-%d", w, rand.N(1000))
		if exec.Command("hezi", "create", "--name", name, ref, "x").Run() == nil { // the name may be taken
			fmt.Println("made", name)
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("the work failed:", err)
		os.Exit(1)
	}
}
