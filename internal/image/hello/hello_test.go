package hello

import (
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFiles(t *testing.T) {
	build := fstest.MapFS{"bin/hezi-hello": {Data: []byte("program")}}
	list, err := files(build)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := files(build)
	if !reflect.DeepEqual(list, again) || !slices.IsSortedFunc(list, func(a, b File) int { return strings.Compare(a.Path, b.Path) }) {
		t.Errorf("not the same each time, or not in order: %v", list)
	}
	modes := map[string]fs.FileMode{}
	for _, f := range list {
		modes[f.Path] = f.Mode
	}
	if modes["/hello"] != 0o755 || modes["/tmp"] != fs.ModeDir|fs.ModeSticky|0o777 || modes["/etc/passwd"] != 0o644 {
		t.Errorf("modes %v", modes)
	}
	if _, err := files(fstest.MapFS{}); !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without the program: %v", err)
	}
}

func TestConfig(t *testing.T) {
	a, err := json.Marshal(Config())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(Config())
	if string(a) != string(b) || strings.Contains(string(a), "created") {
		t.Errorf("not deterministic: %s", a)
	}
	c := Config()
	if !slices.Equal(c.Config.Entrypoint, []string{"/hello"}) || len(c.Config.ExposedPorts) != 1 || c.OS != "linux" {
		t.Errorf("%s", a)
	}
}
