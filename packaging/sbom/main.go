// Command sbom writes what programs are made of to standard output, as CycloneDX 1.6
// (https://cyclonedx.org/docs/1.6/json/). Go writes that into each program that it
// links. The same programs give the same text; its time is SOURCE_DATE_EPOCH.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: sbom VERSION PROGRAM...")
	}
	stamp, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		log.Fatal("SOURCE_DATE_EPOCH: ", err)
	}
	b, err := list(os.Args[1], os.Args[2:], time.Unix(stamp, 0).UTC())
	if err != nil {
		log.Fatal(err)
	}
	w := bufio.NewWriter(os.Stdout)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(b); err != nil {
		log.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		log.Fatal(err)
	}
}

// The types are the part of CycloneDX's that is used.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp time.Time `json:"timestamp"`
		Authors   []entity  `json:"authors"`
		Component component `json:"component"`
	}
	entity struct {
		Name string `json:"name"`
	}
	component struct {
		Ref      string    `json:"bom-ref"`
		Type     string    `json:"type"`
		Supplier *entity   `json:"supplier,omitempty"`
		Name     string    `json:"name"`
		Version  string    `json:"version"`
		Hashes   []hash    `json:"hashes,omitempty"`
		Purl     string    `json:"purl,omitempty"`
		Pedigree *pedigree `json:"pedigree,omitempty"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	pedigree struct {
		Notes string `json:"notes"`
	}
	dependency struct {
		Ref  string   `json:"ref"`
		Deps []string `json:"dependsOn,omitempty"`
	}
)

// list says what the programs are made of.
func list(version string, programs []string, at time.Time) (*bom, error) {
	authors := entity{"The Hezi authors"}
	b := &bom{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{
		Timestamp: at, Authors: []entity{authors},
		Component: component{Ref: "hezi", Type: "application", Supplier: &authors, Name: "hezi", Version: version},
	}}
	whole := dependency{Ref: "hezi"}
	modules := map[string]component{}
	for _, path := range programs {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name := filepath.Base(path)
		b.Components = append(b.Components, component{
			Ref: "hezi/" + name, Type: "application", Supplier: &authors, Name: name, Version: version,
			Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(text))}},
		})
		parts, err := linked(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		of := dependency{Ref: "hezi/" + name}
		for _, p := range parts {
			modules[p.Ref] = p
			of.Deps = append(of.Deps, p.Ref)
		}
		slices.Sort(of.Deps)
		whole.Deps = append(whole.Deps, of.Ref)
		b.Dependencies = append(b.Dependencies, of)
	}
	b.Components = append(b.Components, slices.SortedFunc(maps.Values(modules), func(x, y component) int { return cmp.Compare(x.Ref, y.Ref) })...)
	b.Dependencies = append([]dependency{whole}, b.Dependencies...)
	for _, ref := range slices.Sorted(maps.Keys(modules)) {
		b.Dependencies = append(b.Dependencies, dependency{Ref: ref})
	}
	return b, nil
}

// linked are the modules of a Go program, with Go's own. Those of C are of nothing but
// the kernel's interface.
func linked(program []byte) ([]component, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		if bytes.HasPrefix(program, []byte("\x7fELF")) && !bytes.Contains(program, []byte("\xff Go buildinf:")) {
			return nil, nil
		}
		return nil, err
	}
	all := []component{library("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		all = append(all, module(m))
	}
	return all, nil
}

// module is a module; one that a folder of ours replaces is the module that it was made
// from, which is what is looked for in lists of vulnerabilities.
func module(m *debug.Module) component {
	switch {
	case m.Replace == nil:
		return library(m.Path, m.Version)
	case m.Replace.Sum != "":
		return library(m.Replace.Path, m.Replace.Version)
	}
	c := library(m.Path, m.Version)
	c.Pedigree = &pedigree{"changed: " + strings.TrimPrefix(m.Replace.Path, "./")}
	return c
}

// library's purl is that of https://github.com/package-url/purl-spec, type golang.
func library(path, version string) component {
	purl := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return component{Ref: purl, Type: "library", Name: path, Version: version, Purl: purl}
}
