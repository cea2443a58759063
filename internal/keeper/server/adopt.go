package server

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// TakeBack receives what the holder kept for a keeper that died. It is called
// before Serve.
func (s *Server) TakeBack() error {
	var ps []*process
	for {
		var m handback
		fds, err := keeper.ReadFrame(s.link.conn, &m)
		if err != nil {
			keeper.CloseFDs(fds)
			return fmt.Errorf("take containers back from the holder: %w", err)
		}
		if m.End {
			s.link.setPID(m.PID)
			break
		}
		p, err := s.adopt(m.Record, fds)
		if err != nil {
			s.logger.Error("a process could not be taken back", "key", m.Key, "error", err)
			continue
		}
		ps = append(ps, p)
	}
	go s.link.readLoop()
	s.insert(ps)
	endOrphans(s, ps)
	for _, p := range ps {
		p.release()
		p.run()
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
		if name != fileSpool && name != fileSpoolEr {
			if err := unix.SetNonblock(fds[i], true); err != nil {
				return nil, err
			}
		}
		files[name] = os.NewFile(uintptr(fds[i]), name)
	}
	p := newProcess(s, rec)
	p.pidfd, p.stdin = files[filePidfd], files[fileStdin]
	if rec.Exit != nil {
		close(p.exited)
	}
	if rec.Terminal {
		p.console = files[fileStdout]
	}
	names := [2][2]string{{fileStdout, fileSpool}, {fileStderr, fileSpoolEr}}
	for i, n := range names {
		if files[n[0]] == nil {
			continue
		}
		st := &stream{p: p, index: i, f: files[n[0]], terminal: rec.Terminal}
		if f := files[n[1]]; f != nil {
			var err error
			if st.spool, err = adoptSpool(f); err != nil {
				return nil, err
			}
			p.pos[i] = st.spool.logged
		}
		p.streams[i] = st
	}
	return p, p.adoptLog()
}

// adoptLog opens the log again and undoes a write that was not marked.
func (p *process) adoptLog() error {
	if d := p.rec.Log.Driver; d == "none" || d == "" || p.rec.ExecID != "" {
		return nil
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
