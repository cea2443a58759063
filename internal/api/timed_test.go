package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"hezi/internal/timeline"
)

func TestTimed(t *testing.T) {
	handle := timed(func(c *call) error {
		timeline.Of(c.lasting()).Mark("first", "a few words")
		timeline.Of(c.lasting()).Include([]timeline.Phase{{Name: "other", Does: "another process", Took: 1}}, "way", "there and back")
		return c.noContent(nil)
	})
	for header, want := range map[string]string{
		"":  `^\[\]$`,
		"1": `^\[first;desc="a few words";dur=0\.\d{3} other;desc="another process";dur=0\.000 way;desc="there and back";dur=0\.\d{3}\]$`,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set(timelineHeader, header)
		w := httptest.NewRecorder()
		if err := handle(&call{w: &recorder{ResponseWriter: w}, r: r}); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(w.Header().Values("Server-Timing")); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s %q answers %s, which is not %s", timelineHeader, header, got, want)
		}
	}
}
