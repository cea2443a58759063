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
	statusLoaded      = "Load complete"
	statusReading     = "Reading" // an archive, of unknown length
	statusImporting   = "Importing"
)

// progressEvery is the least time between two counts of one layer.
const progressEvery = 100 * time.Millisecond

// display is what one client is shown. A client that reads slowly holds up
// nobody: lines wait for it, and a newer count of a layer replaces the one
// that still waits.
type display struct {
	now func() time.Time

	mu     sync.Mutex // guards all below; not held while a line is sent
	lines  []jsonstream.Message
	closed bool
	wake   chan struct{}
	ended  chan struct{}
}

// newDisplay begins to send; close ends it.
func newDisplay(send Progress) *display {
	d := &display{now: time.Now, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if send == nil {
		send = func(jsonstream.Message) {}
	}
	go func() {
		defer close(d.ended)
		for range d.wake {
			d.mu.Lock()
			lines, closed := d.lines, d.closed
			d.lines = nil
			d.mu.Unlock()
			for _, m := range lines {
				send(m)
			}
			if closed {
				return
			}
		}
	}()
	return d
}

// close returns when everything is sent.
func (d *display) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.signal()
	<-d.ended
}

func (d *display) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// say sends a line; id may be "".
func (d *display) say(id, status string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addLocked(jsonstream.Message{ID: id, Status: status})
}

// send sends a line as it is.
func (d *display) send(m jsonstream.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addLocked(m)
}

func (d *display) addLocked(m jsonstream.Message) {
	if d.closed {
		return
	}
	defer d.signal()
	if m.ID != "" && m.Progress != nil {
		for i := len(d.lines) - 1; i >= 0; i-- {
			if d.lines[i].ID != m.ID {
				continue
			}
			if d.lines[i].Status == m.Status {
				d.lines[i] = m
				return
			}
			break
		}
	}
	d.lines = append(d.lines, m)
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
			if s == last || s.total == 0 && s.current == 0 || !full && d.now().Sub(at) < progressEvery {
				return
			}
		}
		last, at = s, d.now()
		m := jsonstream.Message{ID: id, Status: s.status, Progress: &jsonstream.Progress{}}
		if s.total > 0 || s.current > 0 {
			m.Progress.Current, m.Progress.Total = s.current, s.total
		}
		d.addLocked(m)
	}
}
