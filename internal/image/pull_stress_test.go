package image

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hezi/internal/image/registry"
)

// TestPullsCancelsAndCollections lets pulls of images that share layers run
// against each other, against cancellations and against the collector.
func TestPullsCancelsAndCollections(t *testing.T) {
	reg := newFake(t)
	var images []v1.Image
	shared := []entry{dir("s"), file("s/a", noise(300_000))}
	for i := range 4 {
		own := fmt.Sprint(i)
		img := imageOf(t, shared, []entry{dir("d"), file("d/"+own, own+noise(100_000))}, []entry{{name: "l", kind: '1', link: "s/a"}}, []entry{file("d/.wh."+own, "")})
		images = append(images, img)
		reg.push("x:"+own, img)
	}
	s := open(t, registry.Config{})
	ctx, stop := context.WithCancel(context.Background())
	var collector sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			if err := s.CollectGarbage(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	var g sync.WaitGroup
	for w := range 8 {
		g.Go(func() {
			for range 6 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(120))*time.Millisecond)
				err := s.Pull(ctx, PullRequest{Reference: fmt.Sprintf("%s/x:%d", reg.addr, w%4)}, nil)
				cancel()
				if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "did not answer") {
					t.Errorf("worker %d: %v", w, err)
				}
			}
		})
	}
	g.Wait()
	for i := range images {
		reg.pull(s, fmt.Sprintf("x:%d", i))
	}
	stop()
	collector.Wait()
	if err := s.CollectGarbage(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, img := range images {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			within(t, s, img, func(root string) {
				if got := tree(t, root); !strings.HasPrefix(got, "d/\nl=") || len(got) < 600_000 {
					t.Errorf("got %.40q", got)
				}
			})
		})
	}
	nothingHalf(t, s)
}
