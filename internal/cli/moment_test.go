package cli

import (
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	now := time.Unix(1000, 42)
	for value, want := range map[string]string{
		"0s": "1000.000000042", "1m": "940.000000042", "-1s": "1001.000000042", "1.5s": "998.500000042",
		"0": "0", "": "", "999": "999", "2013-01-02T13:23:37Z": "2013-01-02T13:23:37Z", "never": "never",
	} {
		if got := moment(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}
