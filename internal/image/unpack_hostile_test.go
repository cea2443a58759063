package image

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/internal/image/registry"
)

// A layer reaches nothing outside of its folder, neither on its own nor over
// the layers below, neither from a registry nor from an archive.
func TestHostileLayersStayInside(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := tree(t, outside)
	up := strings.Repeat("../", 40)
	link := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	hard := func(name, to string) entry { return entry{name: name, kind: tar.TypeLink, link: to} }
	for name, layer := range map[string][]entry{
		"dots":                    {file(up+outside+"/new", "x")},
		"absolute":                {file(outside+"/secret", "x")},
		"through a link":          {link("l", outside), file("l/new", "x"), file("l/secret", "x")},
		"through a relative link": {link("l", up+outside), file("l/new", "x"), file("l/secret", "x")},
		"through two links":       {link("a", "/"), link("b", "a/../.."+outside), file("b/new", "x"), file("b/secret", "x")},
		"over a link":             {link("l", secret), file("l", "x")},
		"a folder over a link":    {link("l", outside), dir("l"), file("l/secret", "x")},
		"hard link":               {hard("h", outside+"/secret"), file("h", "x")},
		"hard link by dots":       {hard("h", up+outside+"/secret"), {name: "h", body: "x", mode: 0o777}},
		"hard link by a link":     {link("l", outside), hard("h", "l/secret")},
		"hard link to a link":     {link("l", secret), hard("h", "l"), file("h", "x")},
		"whiteout by dots":        {file(up+outside+"/.wh.secret", "")},
		"whiteout by a link":      {link("l", outside), file("l/.wh.secret", "")},
		"whiteout of a link":      {link("l", outside), file(".wh.l", "")},
		"whiteout of its parent":  {dir("d"), file("d/.wh...", "")},
		"whiteout of itself":      {dir("d"), file("d/.wh..", ""), file("d/.wh.", "")},
		"opaque by a link":        {link("l", outside), file("l/.wh..wh..opq", "")},
		"opaque over a link":      {link("l", outside), file(".wh..wh..opq", "")},
		"times by a link":         {dir("d"), link("d", outside)},
	} {
		for _, below := range []bool{false, true} {
			layers := [][]entry{layer}
			if below { // what has no parent is unpacked over the layers below
				layers = [][]entry{{dir("base"), dir("only")}, append([]entry{file("base/x", "")}, layer...)}
			}
			if strings.HasPrefix(name, "times") {
				layers[len(layers)-1] = append(layers[len(layers)-1], dir("base"), file("base/y", ""))
			}
			t.Run(name, func(t *testing.T) {
				reg := newFake(t)
				img := imageOf(t, layers...)
				reg.push("x:1", img)
				s := open(t, registry.Config{})
				if _, err := reg.try(s, "x:1"); err != nil {
					t.Log(err) // a refusal is as good as an unpacking inside
					nothingLeft(t, s)
				}
				err := s.Import(context.Background(), ImportRequest{Source: "-", Body: bytes.NewReader(archiveOf(t, layer...)), Reference: "y"}, nil)
				if err != nil {
					t.Log(err)
				}
				if got := tree(t, outside); got != want {
					t.Fatalf("a layer changed what is outside:\n%s", got)
				}
				entries, err := os.ReadDir(filepath.Join(s.root, "layers", "snapshots"))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries { // a hard link to what is outside
					_ = filepath.WalkDir(filepath.Join(s.root, "layers", "snapshots", e.Name()), func(p string, d os.DirEntry, err error) error {
						if err == nil && d.Type().IsRegular() {
							if body, err := os.ReadFile(p); err == nil && string(body) == "secret" {
								t.Errorf("%s is the file outside", p)
							}
						}
						return nil
					})
				}
			})
		}
	}
}

// A name that no file system takes is the layer's fault, and its error is short.
func TestNamesTooLong(t *testing.T) {
	long := strings.Repeat("n", 300)
	deep := strings.Repeat("d/", 3000)
	for name, layer := range map[string][]entry{
		"file": {file(long, "x")}, "folder": {dir(long)}, "deep": {file(deep+"f", "x")}, "whiteout": {file(".wh."+long, "")},
		"link": {{name: "l", kind: tar.TypeSymlink, link: strings.Repeat("t", 5000)}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newFake(t)
			reg.push("x:1", imageOf(t, []entry{file("base", "")}, layer))
			s := open(t, registry.Config{})
			_, err := reg.try(s, "x:1")
			if err == nil || !strings.Contains(err.Error(), "longer than Linux allows") || strings.Contains(err.Error(), s.root) || len(err.Error()) > 600 {
				t.Errorf("%v", err)
			}
			nothingLeft(t, s)
		})
	}
}
