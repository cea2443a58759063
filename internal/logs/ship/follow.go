package ship

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"time"

	"hezi/internal/logs"
)

// ship sends one container's lines.
type ship struct {
	room    *Room
	c       Container
	left    bool            // of a container that is gone: it ends when all is sent
	watched string          // the folder of the files
	before  <-chan struct{} // closed when the ship before has ended
	more    chan struct{}
	done    chan struct{} // closed when run has ended
	ctx     context.Context
	cancel  context.CancelFunc

	cursor *logs.Cursor
	sent   logs.Place       // the cursor may be further, with a batch that is not sent
	parts  map[string]*part // lines that go on, by stream
	out    sender           // nil: not connected
	away   bool             // it was said that the receiver is
	tries  int              // that failed since the last one that did not
}

// idle says whether all was sent. Only after stop.
func (s *ship) idle() bool {
	if s.cursor == nil {
		return false
	}
	c := logs.NewCursor(s.c.config(), s.sent)
	defer c.Close()
	some := false
	_, _, err := c.Next(context.Background(), 1, func(*logs.Entry) { some = true })
	return err == nil && !some
}

func (s *ship) run() {
	defer close(s.done)
	if s.before != nil {
		<-s.before
	}
	log := s.room.log.With("container", s.c.Info.ContainerID, "driver", s.c.Driver)
	place, err := loadPlace(s.c.folder())
	if err != nil {
		log.Warn("it is not known which lines were sent: all that there are are sent", "error", err)
	}
	s.sent = place
	s.cursor, s.parts = logs.NewCursor(s.c.config(), place), map[string]*part{}
	defer s.cursor.Close()
	defer s.disconnect()
	watched := s.watchFiles()
	defer s.unwatchFiles(watched)
	for s.ctx.Err() == nil {
		sent, more := s.pass(log)
		switch {
		case more:
		case sent && s.left && s.idle():
			if err := os.RemoveAll(s.c.folder()); err != nil {
				log.Warn("remove a log that was sent", "error", err)
			}
			s.room.take(s.c.Info.ContainerID)
			return
		case !watched:
			watched = s.watchFiles()
			s.wait(blind)
		default:
			s.wait(time.Hour)
		}
	}
}

// watchFiles: the folder is made by the keeper at the first start.
func (s *ship) watchFiles() bool {
	return s.room.watcher != nil && s.room.watcher.Add(s.watched) == nil
}

func (s *ship) unwatchFiles(watched bool) {
	if watched {
		_ = s.room.watcher.Remove(s.watched) // it is gone with the folder
	}
}

func (s *ship) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.more:
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// batch is what is sent at once, and where it ends.
type batch struct {
	entries []logs.Entry
	end     logs.Place
}

type warner interface{ Warn(string, ...any) }

// pass tries to send one batch. Of what waits for a receiver nothing is held here.
func (s *ship) pass(log warner) (sent, more bool) {
	if s.tries > 0 {
		if err := s.connect(); err != nil {
			return false, s.failed(log, err)
		}
	}
	var b batch
	lost, more, err := s.cursor.Next(s.ctx, batchSize, func(e *logs.Entry) {
		kept := *e
		kept.Line = bytes.Clone(e.Line)
		b.entries = append(b.entries, kept)
	})
	if lost {
		log.Warn("lines may have been rotated away before the receiver took them: raise cache-max-size or cache-max-file", "file", s.c.Info.LogPath)
	}
	if err != nil && s.ctx.Err() == nil {
		log.Warn("read a log that is to be sent", "error", err)
		s.wait(slowest)
		return false, false
	}
	if len(b.entries) == 0 {
		return s.ctx.Err() == nil, more
	}
	b.end = s.cursor.Place()
	if s.sent.First.IsZero() { // so that it is noticed when rotation deletes them
		s.sent.First = b.entries[0].Time
	}
	before := copyParts(s.parts)
	if err := s.send(&b); err != nil {
		s.parts = before
		s.cursor.Seek(s.sent)
		return false, s.failed(log, err)
	}
	s.sent, s.tries = b.end, 0
	if s.away {
		s.away = false
		log.Warn("the receiver takes the container's lines again")
	}
	if err := savePlace(s.c.folder(), b.end); err != nil && s.ctx.Err() == nil {
		log.Warn("it is not stored which lines were sent: some may be sent twice", "error", err)
	}
	return true, more
}

// failed waits for the next try, and says whether there is one.
func (s *ship) failed(log warner, err error) bool {
	s.disconnect()
	if s.ctx.Err() != nil {
		return false
	}
	if !s.away {
		s.away = true
		log.Warn("the receiver does not take the container's lines: they wait in the file, and hezi logs shows them", "error", err)
	}
	s.tries++
	first, pause := firstTries(&s.c)
	if s.tries > first {
		pause = min(pause<<min(s.tries-first, 10), slowest)
	}
	s.sleep(max(pause, time.Millisecond))
	return s.ctx.Err() == nil
}

func (s *ship) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

func copyParts(parts map[string]*part) map[string]*part {
	c := make(map[string]*part, len(parts))
	for k, p := range parts {
		q := *p
		c[k] = &q
	}
	return c
}

func (s *ship) connect() error {
	if s.out != nil {
		return nil
	}
	out, err := connect(s.ctx, &s.c)
	if err == nil {
		s.out = out
	}
	return err
}

func (s *ship) send(b *batch) error {
	if err := s.connect(); err != nil {
		return err
	}
	for i := range b.entries {
		if err := s.out.add(s.message(&b.entries[i])); err != nil {
			return err
		}
	}
	return s.out.flush(s.ctx)
}

func (s *ship) disconnect() {
	if s.out != nil {
		s.out.close()
		s.out = nil
	}
}

// message numbers the parts of a line, as Docker's drivers do.
func (s *ship) message(e *logs.Entry) *message {
	text, ends := bytes.CutSuffix(e.Line, []byte("\n"))
	m := &message{Entry: e, text: text}
	p := s.parts[e.Stream]
	switch {
	case p == nil && ends:
		return m
	case p == nil:
		var id [32]byte
		rand.Read(id[:])
		p = &part{id: hex.EncodeToString(id[:])}
		s.parts[e.Stream] = p
	}
	p.ordinal++
	p.last = ends
	now := *p
	m.part = &now
	if ends {
		delete(s.parts, e.Stream)
	}
	return m
}
