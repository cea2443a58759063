package image

import (
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
)

// The states of a layer in Docker's words; clients draw by them.
const (
	statusPulling     = "Pulling fs layer"
	statusWaiting     = "Waiting"
	statusDownloading = "Downloading"
	statusVerifying   = "Verifying Checksum"
	statusDownloaded  = "Download complete"
	statusExtracting  = "Extracting"
	statusComplete    = "Pull complete"
	statusExists      = "Already exists"
)

// progressEvery is the least time between two counts of one layer.
const progressEvery = 100 * time.Millisecond

// display orders what many layers report for one client.
type display struct {
	mu   sync.Mutex // held while a message is sent, so that they stay whole
	send Progress
	now  func() time.Time
}

func newDisplay(send Progress) *display {
	if send == nil {
		send = func(jsonstream.Message) {}
	}
	return &display{send: send, now: time.Now}
}

// say sends a line; id may be "".
func (d *display) say(id, status string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.send(jsonstream.Message{ID: id, Status: status})
}

// layer gives the watch of one layer. A change of status is always sent,
// counts of the same status at most every progressEvery.
func (d *display) layer(id string) watch {
	var last step
	var at time.Time
	return func(s step) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if s == (step{}) {
			s.status = statusComplete
			if last.status == "" || last.status == statusPulling {
				s.status = statusExists
			}
		}
		full := s.total > 0 && s.current >= s.total
		if s.status == last.status {
			if s == last || s.total == 0 || !full && d.now().Sub(at) < progressEvery {
				return
			}
		}
		last, at = s, d.now()
		m := jsonstream.Message{ID: id, Status: s.status, Progress: &jsonstream.Progress{}}
		if s.total > 0 {
			m.Progress.Current, m.Progress.Total = s.current, s.total
		}
		d.send(m)
	}
}
