package ship

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"

	"hezi/internal/logs/options"
)

// A datagram of GELF: parts of a larger message begin with a magic, the message's
// id, the part's number and how many there are (Graylog's GELF specification).
const (
	gelfDatagram = 1420
	gelfHeader   = 12
	gelfParts    = 128
)

// gelf speaks Graylog's format 1.1: one JSON object a message, over UDP
// compressed and in parts, over TCP ended by a zero.
type gelf struct {
	r     options.GELFReceiver
	host  string
	extra map[string]any
	s     *stream
	batch []byte
	ends  []int
}

func newGELF(ctx context.Context, c *Container) (sender, error) {
	r, err := options.ReadGELF(c.Info.Config)
	if err != nil {
		return nil, err
	}
	g := &gelf{r: r}
	tag, attrs, err := identity(c, func(k string) string {
		if k[0] == '_' {
			return k
		}
		return "_" + k
	})
	if err != nil {
		return nil, err
	}
	if g.host, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("gelf: cannot access hostname to set source field: %w", err)
	}
	i := &c.Info
	g.extra = map[string]any{"_container_id": i.ContainerID, "_container_name": i.Name(), "_image_id": i.ContainerImageID, "_image_name": i.ContainerImageName,
		"_command": i.Command(), "_tag": tag, "_created": i.ContainerCreated}
	for k, v := range attrs {
		g.extra[k] = v
	}
	g.s, err = dial(ctx, r.Proto, r.Address, nil, 0)
	return g, err
}

func (g *gelf) add(m *message) error {
	if len(m.text) == 0 {
		return nil
	}
	text, extra := m.text, g.extra
	for {
		b, err := g.encode(m, text, extra)
		if err != nil {
			return err
		}
		if g.r.Proto == "tcp" {
			g.batch = append(append(g.batch, b...), 0)
			return nil
		}
		if b, err = g.compress(b); err != nil {
			return err
		}
		if g.split(b) {
			return nil
		}
		text, extra = shorter(text, extra)
	}
}

func (g *gelf) encode(m *message, text []byte, extra map[string]any) ([]byte, error) {
	fields := map[string]any{"version": "1.1", "host": g.host, "short_message": string(text), "level": severityInfo,
		"timestamp": float64(m.Time.UnixMilli()) / 1000}
	if m.Stream == "stderr" {
		fields["level"] = severityErr
	}
	maps.Copy(fields, extra)
	return json.Marshal(fields)
}

// shorter halves what is longest of a message that is too large for a receiver,
// since it would hold up all that follow. Where all is short, the fields are too many.
func shorter(text []byte, extra map[string]any) ([]byte, map[string]any) {
	longest, key := len(text), ""
	for k, v := range extra {
		if s, ok := v.(string); ok && len(s) > longest {
			longest, key = len(s), k
		}
	}
	switch {
	case longest < 256:
		return text, nil
	case key == "":
		return text[:len(text)/2], extra
	}
	extra = maps.Clone(extra)
	extra[key] = extra[key].(string)[:longest/2]
	return text, extra
}

func (g *gelf) compress(text []byte) ([]byte, error) {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch g.r.Compression {
	case "gzip":
		w, err = gzip.NewWriterLevel(&b, g.r.Level)
	case "zlib":
		w, err = zlib.NewWriterLevel(&b, g.r.Level)
	default:
		return text, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(text); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// split appends the datagrams of one message, unless it needs too many.
func (g *gelf) split(b []byte) bool {
	if len(b) <= gelfDatagram {
		g.batch = append(g.batch, b...)
		g.ends = append(g.ends, len(g.batch))
		return true
	}
	const room = gelfDatagram - gelfHeader
	parts := (len(b) + room - 1) / room
	if parts > gelfParts {
		return false
	}
	var id [8]byte
	rand.Read(id[:])
	for i := range parts {
		g.batch = append(append(append(g.batch, 0x1e, 0x0f), id[:]...), byte(i), byte(parts))
		g.batch = append(g.batch, b[i*room:min((i+1)*room, len(b))]...)
		g.ends = append(g.ends, len(g.batch))
	}
	return true
}

func (g *gelf) flush(ctx context.Context) error {
	defer func() { g.batch, g.ends = g.batch[:0], g.ends[:0] }()
	if g.r.Proto == "udp" {
		return sendDatagrams(ctx, g.s, g.batch, g.ends)
	}
	if len(g.batch) == 0 {
		return nil
	}
	return g.s.send(ctx, g.batch)
}

func (g *gelf) close() { _ = g.s.Close() }
