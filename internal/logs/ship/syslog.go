package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"os"
	"strconv"
	"time"

	"github.com/docker/go-connections/tlsconfig"

	"hezi/internal/logs/options"
)

// Severities (RFC 5424, 6.2.1) of standard output and standard error.
const (
	severityInfo = 6
	severityErr  = 3
)

// syslogSockets are where the host's own syslog listens.
var syslogSockets = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

// syslog speaks RFC 3164 or RFC 5424, in the forms that Docker's driver writes. The
// time of a message is the line's.
type syslog struct {
	r         options.SyslogReceiver
	tag, host string
	s         *stream
	datagrams bool
	counted   bool // frames begin with their length (RFC 5425, 4.3)
	local     bool // the host's own socket: it knows the host
	batch     []byte
	ends      []int // of the datagrams in batch
}

func newSyslog(ctx context.Context, c *Container) (sender, error) {
	r, err := options.ReadSyslog(c.Info.Config)
	if err != nil {
		return nil, err
	}
	s := &syslog{r: r, counted: r.Proto == options.SecureProto && (r.Format == "rfc5424" || r.Format == "rfc5424micro"), local: r.Proto == ""}
	if s.tag, _, err = identity(c, nil); err != nil {
		return nil, err
	}
	if s.host, err = os.Hostname(); err != nil {
		return nil, err
	}
	if s.local {
		s.s, s.datagrams, err = dialLocal(ctx)
		return s, err
	}
	var conf *tls.Config
	proto := r.Proto
	if proto == options.SecureProto {
		proto = "tcp"
		if conf, err = tlsconfig.Client(tlsconfig.Options{CAFile: r.CA, CertFile: r.Cert, KeyFile: r.Key, InsecureSkipVerify: r.SkipVerify}); err != nil {
			return nil, err
		}
	}
	s.datagrams = proto == "udp" || proto == "unixgram"
	s.s, err = dial(ctx, proto, r.Address, conf, 0)
	return s, err
}

func dialLocal(ctx context.Context) (*stream, bool, error) {
	var errs []error
	for _, path := range syslogSockets {
		for _, proto := range []string{"unixgram", "unix"} {
			s, err := dial(ctx, proto, path, nil, 0)
			if err == nil {
				return s, proto == "unixgram", nil
			}
			errs = append(errs, err)
		}
	}
	return nil, false, fmt.Errorf("this host has no syslog: name one by syslog-address: %w", errors.Join(errs...))
}

func (s *syslog) add(m *message) error {
	if len(m.text) == 0 {
		return nil
	}
	text := s.format(m)
	switch {
	case s.counted:
		s.batch = append(strconv.AppendInt(s.batch, int64(len(text)), 10), ' ')
		s.batch = append(s.batch, text...)
	default:
		s.batch = append(append(s.batch, text...), '\n')
	}
	s.ends = append(s.ends, len(s.batch))
	return nil
}

func (s *syslog) format(m *message) []byte {
	priority := s.r.Facility | severityInfo
	if m.Stream == "stderr" {
		priority = s.r.Facility | severityErr
	}
	pid, at := os.Getpid(), m.Time.Local()
	switch s.r.Format {
	case "rfc5424":
		return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s", priority, at.Format(time.RFC3339), s.host, s.tag, pid, s.tag, m.text)
	case "rfc5424micro":
		return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s", priority, at.Format("2006-01-02T15:04:05.000000Z07:00"), s.host, s.tag, pid, s.tag, m.text)
	case "rfc3164":
		return fmt.Appendf(nil, "<%d>%s %s %s[%d]: %s", priority, at.Format(time.Stamp), s.host, s.tag, pid, m.text)
	}
	return fmt.Appendf(nil, "<%d>%s %s[%d]: %s", priority, at.Format(time.Stamp), s.tag, pid, m.text)
}

func (s *syslog) flush(ctx context.Context) error {
	defer func() { s.batch, s.ends = s.batch[:0], s.ends[:0] }()
	if !s.datagrams {
		if len(s.batch) == 0 {
			return nil
		}
		return s.s.send(ctx, s.batch)
	}
	return sendDatagrams(ctx, s.s, s.batch, s.ends)
}

// sendDatagrams sends the parts of b that end at ends. One that is too large for
// the receiver is cut, since it would hold up all that follows.
func sendDatagrams(ctx context.Context, s *stream, b []byte, ends []int) error {
	stop := context.AfterFunc(ctx, func() { _ = s.raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	begin := 0
	for _, end := range ends {
		d := b[begin:end]
		begin = end
		for {
			if err := s.raw.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			_, err := s.Write(d)
			if err == nil {
				break
			}
			if !tooLarge(err) || len(d) < 512 {
				return err
			}
			d = d[:len(d)/2]
		}
	}
	return nil
}

func (s *syslog) close() {
	if s.s != nil {
		_ = s.s.Close() // what counts was acknowledged
	}
}
