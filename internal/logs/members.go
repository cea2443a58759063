package logs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"
)

// memberSize is how many bytes of records are compressed together, in a gzip member of
// their own. zcat reads the members as one file (RFC 1952, section 2.2).
const memberSize = 1 << 20

// A member's header says, in a field that others skip (RFC 1952, section 2.3.1.1), how
// many bytes it has, how many it has of records, and when the first of those was
// written: two 32-bit and one 64-bit number, little-endian, the last in nanoseconds
// since 1970, or 0.
const (
	memberField  = 16
	memberHeader = 10 + 2 + 4 + memberField // what comes before the compressed bytes
)

var memberID = [4]byte{'H', 'Z', memberField, 0}

// member is a part of a compressed file that can be read on its own.
type member struct {
	off   int64 // where it begins in the file
	start int64 // where its records begin in the log
	size  int64 // bytes of records; negative: as many as there are
	first time.Time
}

// pack compresses the records of src, which end in newlines.
func pack(dst io.Writer, src io.Reader) error {
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(src, 64<<10)
	for err == nil {
		out.Reset()
		zw.Reset(&out)
		zw.Extra = append(memberID[:], make([]byte, memberField)...)
		var head []byte // enough of the first record to have its time
		size := 0
		for err == nil && size < memberSize {
			var line []byte
			for long := true; long && err == nil; size += len(line) {
				line, err = in.ReadSlice('\n')
				if long = errors.Is(err, bufio.ErrBufferFull); long {
					err = nil
				}
				if size < maxRecord && bytes.IndexByte(head, '\n') < 0 {
					head = append(head, line...)
				}
				if _, werr := zw.Write(line); werr != nil {
					return werr
				}
			}
		}
		if err != nil && err != io.EOF {
			return err
		}
		if size == 0 {
			break
		}
		if err := zw.Close(); err != nil {
			return err
		}
		field := out.Bytes()[memberHeader-memberField:]
		if out.Len() <= math.MaxUint32 && size <= math.MaxUint32 {
			binary.LittleEndian.PutUint32(field, uint32(out.Len()))
			binary.LittleEndian.PutUint32(field[4:], uint32(size))
			if e, ok := parseRecord(head); ok {
				binary.LittleEndian.PutUint64(field[8:], uint64(e.Time.UnixNano()))
			}
		}
		if _, err := dst.Write(out.Bytes()); err != nil {
			return err
		}
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// members are the parts of a compressed file. What does not say its size, as files that
// others or older versions wrote, is one with all that follows.
func (f *file) members() []member {
	if f.parts != nil {
		return f.parts
	}
	var m member
	var h [memberHeader]byte
	for {
		m.size, m.first = -1, time.Time{}
		n, err := f.f.ReadAt(h[:], m.off)
		if n == 0 && errors.Is(err, io.EOF) && m.off > 0 {
			break
		}
		field := h[memberHeader-memberField:]
		long := int64(binary.LittleEndian.Uint32(field))
		if err != nil || h[0] != 0x1f || h[1] != 0x8b || h[3] != 4 || !bytes.Equal(h[12:16], memberID[:]) || long <= memberHeader {
			f.parts = append(f.parts, m)
			break
		}
		m.size = int64(binary.LittleEndian.Uint32(field[4:]))
		if ns := int64(binary.LittleEndian.Uint64(field[8:])); ns != 0 {
			m.first = time.Unix(0, ns).UTC()
		}
		f.parts = append(f.parts, m)
		m.off, m.start = m.off+long, m.start+m.size
	}
	return f.parts
}

// unpack reads a compressed file from off bytes into its records.
func (f *file) unpack(off int64) (io.Reader, error) {
	parts := f.members()
	i := len(parts) - 1
	for i > 0 && parts[i].start > off {
		i--
	}
	if last := parts[i]; last.size >= 0 && off >= last.start+last.size && i == len(parts)-1 {
		return bytes.NewReader(nil), nil
	}
	z, err := f.unpackMember(i, true)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, z, off-parts[i].start); err != nil {
		return nil, err
	}
	return z, nil
}

// unpackMember reads a member and, with more, what follows it.
func (f *file) unpackMember(i int, more bool) (io.Reader, error) {
	z, err := gzip.NewReader(bufio.NewReaderSize(io.NewSectionReader(f.f, f.parts[i].off, math.MaxInt64-f.parts[i].off), 32<<10))
	if err == nil {
		z.Multistream(more || f.parts[i].size < 0)
	}
	return z, err
}

// tailPacked finds where the last n records begin; left is what n lacks.
func tailPacked(f *file, n int) (off int64, left int, found bool) {
	parts := f.members()
	for i := len(parts) - 1; i >= 0; i-- {
		r, err := f.unpackMember(i, false)
		if err != nil {
			continue
		}
		starts := lineStarts(r)
		if len(starts) >= n {
			return parts[i].start + starts[len(starts)-n], 0, true
		}
		n -= len(starts)
	}
	return 0, n, false
}

// lineStarts are the places where lines begin, up to where r can be read.
func lineStarts(r io.Reader) (starts []int64) {
	br := bufio.NewReaderSize(r, 32<<10)
	var pos int64
	for begins := true; ; {
		part, err := br.ReadSlice('\n')
		if begins && len(part) > 0 {
			starts = append(starts, pos)
		}
		pos += int64(len(part))
		begins = err == nil
		if err != nil && err != bufio.ErrBufferFull {
			return starts
		}
	}
}

// seekPacked is seekTime of a compressed file: the beginning of the member that has the
// first record of since or later.
func seekPacked(f *file, since time.Time) int64 {
	parts := f.members()
	for i := range parts[:len(parts)-1] {
		if next := parts[i+1].first; next.IsZero() || !next.Before(since) {
			return parts[i].start
		}
	}
	return parts[len(parts)-1].start
}
