package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	spoolHeader = 4096
	chunkSize   = 64 << 10
	// busyPipe is what a pipe holds, in bytes, once it was found full: its program
	// writes on while the log is written. It is as large as anybody may have it.
	busyPipe = 1 << 20
)

// spool holds a stream's bytes from their arrival until they are in the log.
// A byte's offset is its place in the stream. The copy of the descriptor in
// the holder keeps it over the keeper's death.
type spool struct {
	f      *os.File
	size   atomic.Int64 // bytes arrived; changed by the pump alone
	logged int64        // bytes in the log
	done   atomic.Int64 // the same, for the pump
	freed  int64        // pages up to here are given back
	grown  bool         // the pipe was found full, and made larger where that is allowed
	// A write to the log that may not have been marked: the log's inode and
	// its size before.
	intentIno uint64
	intentOff int64
}

func newSpool() (*spool, error) {
	fd, err := unix.MemfdCreate("hezi-spool", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a spool for output: %w", err)
	}
	s := &spool{f: os.NewFile(uintptr(fd), "spool")}
	if err := errors.Join(s.f.Truncate(spoolHeader), s.save()); err != nil {
		s.f.Close()
		return nil, err
	}
	return s, nil
}

// adoptSpool reads the state back from the memfd.
func adoptSpool(f *os.File) (*spool, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var h [24]byte
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return nil, err
	}
	s := &spool{f: f}
	s.size.Store(max(st.Size()-spoolHeader, 0))
	s.logged = min(int64(binary.LittleEndian.Uint64(h[0:])), s.size.Load())
	s.done.Store(s.logged)
	s.intentIno = binary.LittleEndian.Uint64(h[8:])
	s.intentOff = int64(binary.LittleEndian.Uint64(h[16:]))
	return s, nil
}

// save writes the header: one write, so a kill leaves the old or the new one.
func (s *spool) save() error {
	var h [24]byte
	binary.LittleEndian.PutUint64(h[0:], uint64(s.logged))
	binary.LittleEndian.PutUint64(h[8:], s.intentIno)
	binary.LittleEndian.PutUint64(h[16:], uint64(s.intentOff))
	_, err := s.f.WriteAt(h[:], 0)
	return err
}

// splice moves what a pipe has, at most a chunk. EAGAIN: nothing there; 0: the end.
func (s *spool) splice(pipe int) (int, error) {
	off := spoolHeader + s.size.Load()
	for {
		n, err := unix.Splice(pipe, nil, int(s.f.Fd()), &off, chunkSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			s.size.Add(n)
		}
		if n == chunkSize && !s.grown {
			s.grown = true
			_, _ = unix.FcntlInt(uintptr(pipe), unix.F_SETPIPE_SZ, busyPipe) // else it stays as it is
		}
		return int(max(n, 0)), err
	}
}

func (s *spool) append(b []byte) error {
	n, err := s.f.WriteAt(b, spoolHeader+s.size.Load())
	s.size.Add(int64(n))
	return err
}

func (s *spool) read(b []byte, from int64) (int, error) {
	n := min(int64(len(b)), s.size.Load()-from)
	return s.f.ReadAt(b[:n], spoolHeader+from)
}

// mark says that everything before logged is in the log, and frees it.
func (s *spool) mark(logged int64) error {
	s.logged, s.intentIno = logged, 0
	s.done.Store(logged)
	if err := s.save(); err != nil {
		return err
	}
	if s.logged-s.freed < chunkSize && (s.logged != s.size.Load() || s.logged-s.freed < 4096) {
		return nil
	}
	end := s.logged &^ 4095
	if end > s.freed {
		if err := unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, spoolHeader+s.freed, end-s.freed); err != nil {
			return err
		}
		s.freed = end
	}
	return nil
}
