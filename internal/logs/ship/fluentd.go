package ship

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/tinylib/msgp/msgp"

	"hezi/internal/logs/options"
)

// ackTimeout is how long a receiver may take to confirm a chunk, where
// fluentd-read-timeout says nothing.
const ackTimeout = 30 * time.Second

// fluentd speaks the forward mode of Fluentd's forward protocol, version 1: an
// array of the tag, the entries and options. Docker's driver sends each entry as
// a message of its own, which receivers take for the same.
type fluentd struct {
	r       options.FluentdReceiver
	tag     string
	c       *Container
	extra   map[string]string
	s       *stream
	dialled time.Time
	entries []byte // of the chunk that is being filled
	count   uint32
	chunks  []chunk
}

// chunk is one array; its id is what the receiver confirms.
type chunk struct {
	id    string
	bytes []byte
}

func newFluentd(ctx context.Context, c *Container) (sender, error) {
	r, err := options.ReadFluentd(c.Info.Config)
	if err != nil {
		return nil, err
	}
	f := &fluentd{r: r, c: c}
	if f.tag, f.extra, err = identity(c, nil); err != nil {
		return nil, err
	}
	return f, f.dial(ctx)
}

func (f *fluentd) dial(ctx context.Context) (err error) {
	proto, address := "tcp", net.JoinHostPort(f.r.Host, strconv.Itoa(f.r.Port))
	var conf *tls.Config
	switch f.r.Proto {
	case "unix":
		proto, address = "unix", f.r.Path
	case "tls":
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	f.s, err = dial(ctx, proto, address, conf, f.r.WriteTimeout)
	f.dialled = time.Now()
	return err
}

func (f *fluentd) add(m *message) error {
	record := map[string]string{"container_id": f.c.Info.ContainerID, "container_name": f.c.Info.ContainerName, "source": m.Stream, "log": string(m.text)}
	for k, v := range f.extra {
		record[k] = v
	}
	if m.part != nil {
		record["partial_message"], record["partial_id"] = "true", m.part.id
		record["partial_ordinal"], record["partial_last"] = strconv.Itoa(m.part.ordinal), strconv.FormatBool(m.part.last)
	}
	b := msgp.AppendArrayHeader(f.entries, 2)
	if f.r.SubSecond { // the extension EventTime: type 0, seconds and nanoseconds
		b = append(b, 0xd7, 0x00)
		b = binary.BigEndian.AppendUint32(b, uint32(m.Time.Unix()))
		b = binary.BigEndian.AppendUint32(b, uint32(m.Time.Nanosecond()))
	} else {
		b = msgp.AppendInt64(b, m.Time.Unix())
	}
	f.entries = msgp.AppendMapStrStr(b, record)
	if f.count++; len(f.entries) >= f.r.BufferLimit {
		f.seal()
	}
	return nil
}

// seal makes a chunk of the entries.
func (f *fluentd) seal() {
	if f.count == 0 {
		return
	}
	var id [16]byte
	rand.Read(id[:])
	c := chunk{id: base64.StdEncoding.EncodeToString(id[:])}
	b := msgp.AppendString(msgp.AppendArrayHeader(nil, 3), f.tag)
	b = append(msgp.AppendArrayHeader(b, f.count), f.entries...)
	if f.r.Ack {
		b = msgp.AppendString(msgp.AppendString(msgp.AppendMapHeader(b, 2), "chunk"), c.id)
	} else {
		b = msgp.AppendMapHeader(b, 1)
	}
	c.bytes = msgp.AppendUint32(msgp.AppendString(b, "size"), f.count)
	f.chunks = append(f.chunks, c)
	f.entries, f.count = f.entries[:0], 0
}

func (f *fluentd) flush(ctx context.Context) error {
	f.seal()
	chunks := f.chunks
	f.chunks = nil
	if f.r.Async && f.r.Reconnect > 0 && time.Since(f.dialled) > f.r.Reconnect {
		f.close()
		if err := f.dial(ctx); err != nil {
			return err
		}
	}
	for _, c := range chunks {
		if err := f.s.send(ctx, c.bytes); err != nil {
			return err
		}
		if f.r.Ack {
			if err := f.confirm(ctx, c.id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fluentd) confirm(ctx context.Context, id string) error {
	stop := context.AfterFunc(ctx, func() { _ = f.s.raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	timeout := f.r.ReadTimeout
	if timeout <= 0 {
		timeout = ackTimeout
	}
	if err := f.s.raw.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var b []byte
	buf := make([]byte, 512)
	for {
		n, err := f.s.Read(buf)
		if err != nil {
			return fmt.Errorf("the receiver did not confirm: %w", err)
		}
		if b = append(b, buf[:n]...); len(b) > 4096 {
			return errors.New("what the receiver answered is no confirmation")
		}
		answer, _, err := msgp.ReadMapStrIntfBytes(b, nil)
		if errors.Is(err, msgp.ErrShortBytes) {
			continue
		}
		if err != nil {
			return fmt.Errorf("what the receiver answered is no confirmation: %w", err)
		}
		if answer["ack"] != id {
			return fmt.Errorf("the receiver confirmed %v, not %s", answer["ack"], id)
		}
		return nil
	}
}

func (f *fluentd) close() {
	if f.s != nil {
		_ = f.s.Close()
	}
}
