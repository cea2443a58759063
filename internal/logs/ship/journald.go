package ship

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const journalSocket = "/run/systemd/journal/socket"

// Priorities of syslog(3).
const (
	priorityErr  = "3"
	priorityInfo = "6"
)

// journald speaks the native protocol of systemd-journald
// (systemd.io/JOURNAL_NATIVE_PROTOCOL), with Docker's fields. The socket is connected:
// one that is not is never told that a journald which hung takes messages again.
type journald struct {
	conn    *stream
	fields  []byte // that each message has
	ordinal uint64
	batch   [][]byte
}

func newJournald(ctx context.Context, c *Container) (sender, error) {
	tag, attrs, err := identity(c, fieldName)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, "unixgram", journalSocket, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("journald is not enabled on this host: %w", err)
	}
	var epoch [32]byte
	rand.Read(epoch[:])
	fields := map[string]string{
		"CONTAINER_ID": c.Info.ID(), "CONTAINER_ID_FULL": c.Info.ContainerID, "CONTAINER_NAME": c.Info.Name(), "CONTAINER_TAG": tag,
		"IMAGE_NAME": c.Info.ContainerImageName, "SYSLOG_IDENTIFIER": tag, "CONTAINER_LOG_EPOCH": hex.EncodeToString(epoch[:]),
	}
	maps.Copy(fields, attrs)
	j := &journald{conn: conn}
	for k, v := range fields {
		j.fields = appendField(j.fields, k, v)
	}
	return j, nil
}

// fieldName makes k what journald takes: letters, digits and underscores, none of
// these first (systemd.journal-fields(7)). "" where nothing is left.
func fieldName(k string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, k)
	return strings.TrimLeft(name, "_")
}

// appendField appends a field: one with a newline says its length before.
func appendField[T string | []byte](dst []byte, name string, value T) []byte {
	dst = append(dst, name...)
	if bytes.IndexByte([]byte(value), '\n') < 0 {
		dst = append(dst, '=')
	} else {
		dst = binary.LittleEndian.AppendUint64(append(dst, '\n'), uint64(len(value)))
	}
	return append(append(dst, value...), '\n')
}

func (j *journald) add(m *message) error {
	priority := priorityInfo
	if m.Stream == "stderr" {
		priority = priorityErr
	}
	b := appendField(nil, "PRIORITY", priority)
	b = appendField(b, "MESSAGE", m.text)
	b = appendField(append(b, j.fields...), "SYSLOG_TIMESTAMP", m.Time.UTC().Format(time.RFC3339Nano))
	if p := m.part; p != nil {
		b = appendField(b, "CONTAINER_PARTIAL_ID", p.id)
		b = appendField(b, "CONTAINER_PARTIAL_ORDINAL", strconv.Itoa(p.ordinal))
		b = appendField(b, "CONTAINER_PARTIAL_LAST", strconv.FormatBool(p.last))
		if !p.last {
			b = appendField(b, "CONTAINER_PARTIAL_MESSAGE", "true")
		}
	}
	j.ordinal++
	j.batch = append(j.batch, appendField(b, "CONTAINER_LOG_ORDINAL", strconv.FormatUint(j.ordinal, 10)))
	return nil
}

// flush returns once journald has read all: what is in its queue is lost with it.
func (j *journald) flush(ctx context.Context) error {
	batch := j.batch
	j.batch = nil
	stop := context.AfterFunc(ctx, func() { _ = j.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for _, b := range batch {
		if err := j.conn.SetWriteDeadline(time.Now().Add(j.conn.timeout)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := j.send(b); err != nil {
			return err
		}
	}
	return j.conn.delivered(ctx)
}

// send sends a message, one that is too large for a datagram in a file.
func (j *journald) send(b []byte) error {
	_, err := j.conn.Write(b)
	if !tooLarge(err) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("hezi-line", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("a file for a large message: %w", err)
	}
	f := os.NewFile(uintptr(fd), "line")
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("a file for a large message: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("seal a large message: %w", err)
	}
	raw, err := j.conn.raw.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(to uintptr) bool { // net's own way is for sockets that are not connected
		sent = unix.Sendmsg(int(to), nil, unix.UnixRights(fd), nil, 0)
		return sent != unix.EAGAIN
	})
	return errors.Join(err, sent)
}

func (j *journald) close() { _ = j.conn.Close() }
