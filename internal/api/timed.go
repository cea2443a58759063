package api

import (
	"fmt"
	"time"

	"hezi/internal/timeline"
)

// timelineHeader in a request has its answer say what the phases of the work took, as
// Server-Timing (https://www.w3.org/TR/server-timing/). Hezi's own.
const timelineHeader = "Hezi-Timeline"

// timed serves an operation whose phases can be asked for.
func timed(handle func(*call) error) func(*call) error {
	return func(c *call) error {
		rec, ok := c.w.(*recorder)
		if !ok || c.r.Header.Get(timelineHeader) == "" {
			return handle(c)
		}
		ctx, record := timeline.New(c.r.Context())
		c.r = c.r.WithContext(ctx)
		rec.before = func() {
			for _, p := range record.Phases() {
				rec.Header().Add("Server-Timing", fmt.Sprintf("%s;desc=%q;dur=%.3f", p.Name, p.Does, float64(p.Took)/float64(time.Millisecond)))
			}
		}
		return handle(c)
	}
}
