package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// language is one in which the reference is written.
type language struct {
	Dir   string            // of its pages, from the project's root
	Other string            // the way to the same list in the other language
	Stop  string            // what ends a sentence
	Texts map[string]string // by what the command line says in English; nil for English
	said  map[string]bool
}

//go:embed zh.json
var zh []byte

// languages are those of the reference.
func languages() []*language {
	texts := map[string]string{}
	if err := json.Unmarshal(zh, &texts); err != nil {
		panic(fmt.Sprintf("packaging/reference/zh.json: %v", err)) // it is part of this program
	}
	return []*language{
		{Dir: "docs/reference", Other: "*[中文](../zh/reference/README.md)*", Stop: "."},
		{Dir: "docs/zh/reference", Other: "*[English](../../reference/README.md)*", Stop: "。", Texts: texts},
	}
}

// say is a text in the language, or in English where it lacks that.
func (l *language) say(text string) string {
	if l.Texts == nil || text == "" {
		return text
	}
	if l.said == nil {
		l.said = map[string]bool{}
	}
	l.said[text] = true
	return cmp.Or(l.Texts[text], text)
}

// sentence is a text that has no stop, with one.
func (l *language) sentence(text string) string {
	return strings.TrimSuffix(l.say(text), ".") + l.Stop
}

// check says what of all that was said the language lacks, and what it has beside.
func (l *language) check() error {
	var wrong []string
	if l.Texts != nil {
		for _, text := range slices.Sorted(maps.Keys(l.said)) {
			if l.Texts[text] == "" {
				wrong = append(wrong, fmt.Sprintf("no translation of %q", text))
			}
		}
		for _, text := range slices.Sorted(maps.Keys(l.Texts)) {
			if !l.said[text] {
				wrong = append(wrong, fmt.Sprintf("a translation of what the command line does not say: %q", text))
			}
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%s: packaging/reference/zh.json has\n%s", l.Dir, strings.Join(wrong, "\n"))
}
