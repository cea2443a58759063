package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hezi/internal/image/registry"
)

// TestMain lets the test's own program be the daemon that is killed.
func TestMain(m *testing.M) {
	if root := os.Getenv("HEZI_TEST_PULL_ROOT"); root != "" {
		s, err := Open(context.Background(), Options{Root: root})
		if err == nil {
			err = s.Pull(context.Background(), PullRequest{Reference: os.Getenv("HEZI_TEST_PULL_REF")}, nil)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(m.Run())
}

func TestAPullOutlivesAKill(t *testing.T) {
	reg := newFake(t)
	img := imageOf(t, []entry{file("first", noise(400_000))}, []entry{file("big", noise(4<<20))})
	reg.push("x:1", img)
	arrived := make(chan struct{}, 8)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	big, err := list[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	reg.misbehave(hangAfter(reg, big.String(), 3<<20, arrived, hang))
	root := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HEZI_TEST_PULL_ROOT="+root, "HEZI_TEST_PULL_REF="+reg.addr+"/x:1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-arrived
	waitForBytes(t, filepath.Join(root, "content", "ingest"), 3<<20)
	waitForBytes(t, filepath.Join(root, "content", "blobs"), 400_000) // the first layer is whole
	time.Sleep(500 * time.Millisecond)                                // and noted in the database
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	s, err := Open(context.Background(), Options{Root: root, Registries: registry.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	onlyDownloads(t, s)
	reg.misbehave(func(w httpWriter, r *httpRequest) bool { return ranged(reg, w, r) })
	reg.pull(s, "x:1")
	within(t, s, img, func(root string) {
		if i, err := os.Stat(filepath.Join(root, "big")); err != nil || i.Size() != 4<<20 {
			t.Error(i, err)
		}
	})
	noLeases(t, s)
	first, err := list[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if again := reg.asked("", first.String()); len(again) > 0 {
		t.Errorf("the layer that was whole was asked for as %v", again)
	}
	asked := reg.asked("", big.String())
	if len(asked) != 1 || !strings.HasPrefix(asked[0].Header.Get("Range"), "bytes=3145") {
		t.Errorf("the big layer was asked for as %v", asked)
	}
	nothingHalf(t, s)
}
