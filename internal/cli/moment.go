package cli

import (
	"fmt"
	"time"
)

// moment writes a time before now (10m) as the engine takes times. The client's
// library would round it down to whole seconds, so that `--until 0s` left out
// what has just happened. Other times are as they were.
func moment(value string, now time.Time) string {
	d, err := time.ParseDuration(value)
	if err != nil || value == "0" { // which is 1970
		return value
	}
	at := now.Add(-d)
	return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond())
}
