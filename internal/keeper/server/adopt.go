package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// TakeBack receives what the holder kept for a keeper that died. It is called
// before Serve.
func (s *Server) TakeBack() error {
	var ps []*process
	spared := map[string]bool{} // containers that hezid is to find again
	for {
		var m handback
		fds, err := keeper.ReadFrame(s.link.conn, &m)
		if err != nil && !errors.Is(err, keeper.ErrFilesLost) {
			keeper.CloseFDs(fds)
			return fmt.Errorf("take containers back from the holder: %w", err)
		}
		if m.End {
			s.link.setPID(m.PID)
			break
		}
		var p *process
		if err == nil {
			p, err = s.adopt(m.Record, fds)
		}
		if err != nil {
			s.logger.Error("a process could not be taken back", "key", m.Key, "error", err)
			id, _, _ := strings.Cut(m.Key, "/")
			spared[id] = true
			continue
		}
		ps = append(ps, p)
	}
	go s.link.readLoop()
	s.insert(ps)
	endOrphans(s, ps, spared)
	for _, p := range ps {
		p.release()
		p.run()
		clientGone(p) // its connection ended with the keeper before
	}
	return nil
}

// insert puts adopted processes in their places, execs behind containers.
func (s *Server) insert(ps []*process) {
	for _, p := range ps {
		if p.rec.ExecID == "" {
			s.containers[p.rec.ContainerID] = p
		}
	}
	for _, p := range ps {
		if c := s.containers[p.rec.ContainerID]; c != nil && p.rec.ExecID != "" {
			c.execs[p.rec.ExecID] = p
		}
	}
	for _, p := range ps {
		if p.rec.ExecID == "" {
			findGroups(p)
		}
	}
}

// adopt makes a process of a record and its descriptors.
func (s *Server) adopt(raw json.RawMessage, fds []int) (*process, error) {
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		keeper.CloseFDs(fds)
		return nil, err
	}
	if len(rec.Files) != len(fds) {
		keeper.CloseFDs(fds)
		return nil, fmt.Errorf("%d descriptors for %d names", len(fds), len(rec.Files))
	}
	files := map[string]*os.File{}
	for i, name := range rec.Files {
		// A socket of names that does not block is none that Go's poller looks at, as
		// those that have questions in them would wake the keeper.
		if name != fileSpool && name != fileSpoolEr && !strings.HasPrefix(name, fileNames) {
			if err := unix.SetNonblock(fds[i], true); err != nil {
				return nil, err
			}
		}
		files[name] = os.NewFile(uintptr(fds[i]), name)
	}
	p := newProcess(s, rec)
	p.pidfd, p.stdin = files[filePidfd], files[fileStdin]
	for _, name := range rec.Files {
		switch {
		case strings.HasPrefix(name, filePort):
			p.ports = append(p.ports, files[name])
		case strings.HasPrefix(name, fileNames):
			p.names = append(p.names, files[name])
		}
	}
	if rec.Exit != nil {
		close(p.exited)
	}
	if rec.Terminal {
		p.console = files[fileStdout]
	}
	var broken error
	names := [2][2]string{{fileStdout, fileSpool}, {fileStderr, fileSpoolEr}}
	for i, n := range names {
		if files[n[0]] == nil {
			continue
		}
		st := &stream{p: p, index: i, f: files[n[0]], terminal: rec.Terminal}
		if f := files[n[1]]; f != nil {
			var err error
			if st.spool, err = adoptSpool(f); err != nil {
				broken = errors.Join(broken, fmt.Errorf("what was read and not yet logged: %w", err))
			} else {
				p.pos[i] = st.spool.logged
			}
		}
		p.streams[i] = st
	}
	if broken == nil {
		broken = p.adoptLog()
	}
	if broken != nil {
		p.withoutLog(broken)
	}
	return p, nil
}

// withoutLog has a container whose log cannot be opened again run on without: its
// output is read and given to clients, and not kept. The holder still has what a
// later keeper needs to go on with the log.
func (p *process) withoutLog(why error) {
	if p.log != nil {
		why = errors.Join(why, p.log.Close())
		p.log = nil
	}
	for _, s := range p.streams {
		if s != nil && s.spool != nil {
			why = errors.Join(why, s.spool.f.Close())
			s.spool = nil
		}
	}
	p.srv.logger.Error("a container's log cannot be opened again: it runs on, and its output is not kept", "container", p.rec.ContainerID, "error", why)
}

// adoptLog opens the log again and undoes a write that was not marked.
func (p *process) adoptLog() error {
	if d := p.rec.Log.Driver; d == "none" || d == "" || p.rec.ExecID != "" {
		return nil
	}
	for _, s := range p.streams {
		if s != nil && s.spool == nil {
			return errors.New("an earlier keeper could not open it, and went on without")
		}
	}
	var err error
	if p.log, err = logs.Open(logConfig(p.rec.Log), firstGeneration); err != nil {
		return err
	}
	ino, err := p.log.Inode()
	if err != nil {
		return err
	}
	for _, s := range p.streams {
		if s != nil && s.spool != nil && s.spool.intentIno == ino {
			if err := p.log.Undo(s.spool.intentOff); err != nil {
				return err
			}
		}
	}
	return nil
}
