package options

import (
	"compress/flate"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

func checkRemote(driver string, opts map[string]string) (err error) {
	switch driver {
	case Syslog:
		_, err = ReadSyslog(opts)
	case GELF:
		_, err = ReadGELF(opts)
	case Fluentd:
		_, err = ReadFluentd(opts)
	}
	return err
}

// Proto of a syslog receiver that speaks TLS.
const SecureProto = "tcp+tls"

// SyslogReceiver is what the options of syslog say.
type SyslogReceiver struct {
	Proto, Address string // both "": the host's own socket
	Facility       int    // as in the priority: a multiple of 8 (RFC 5424, 6.2.1)
	Format         string // "", rfc3164, rfc5424 or rfc5424micro
	CA, Cert, Key  string // files
	SkipVerify     bool
}

var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// ReadSyslog reads the options of syslog.
func ReadSyslog(opts map[string]string) (r SyslogReceiver, err error) {
	_, skip := opts["syslog-tls-skip-verify"]
	r = SyslogReceiver{Format: opts["syslog-format"], CA: opts["syslog-tls-ca-cert"], Cert: opts["syslog-tls-cert"], Key: opts["syslog-tls-key"], SkipVerify: skip}
	if r.Proto, r.Address, err = syslogAddress(opts["syslog-address"]); err != nil {
		return r, err
	}
	if r.Facility, err = facility(opts["syslog-facility"]); err != nil {
		return r, err
	}
	switch r.Format {
	case "", "rfc3164", "rfc5424", "rfc5424micro":
	default:
		//lint:ignore ST1005 the words are Docker's
		return r, fmt.Errorf("Invalid syslog format %q: rfc3164, rfc5424 or rfc5424micro is needed", r.Format)
	}
	return r, nil
}

func syslogAddress(s string) (proto, address string, err error) {
	if s == "" {
		return "", "", nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", err
	}
	switch u.Scheme {
	case "unix", "unixgram":
		if _, err := os.Stat(u.Path); err != nil {
			return "", "", err
		}
		return u.Scheme, u.Path, nil
	case "udp", "tcp", SecureProto:
	default:
		return "", "", fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	host := u.Host
	if _, _, err := net.SplitHostPort(host); err != nil {
		if !strings.Contains(err.Error(), "missing port in address") {
			return "", "", err
		}
		host = net.JoinHostPort(strings.Trim(host, "[]"), "514")
	}
	return u.Scheme, host, nil
}

func facility(s string) (int, error) {
	if s == "" {
		s = "daemon"
	}
	if i := slices.Index(facilities, s); i >= 0 {
		return i << 3, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 23 {
		return n << 3, nil
	}
	return 0, fmt.Errorf("invalid syslog facility %q: a name such as daemon or local0, or 0 to 23 is needed", s)
}

// GELFReceiver is what the options of gelf say.
type GELFReceiver struct {
	Proto, Address string
	Compression    string // of UDP: gzip, zlib or none
	Level          int    // compress/flate's
	// Of TCP: tries after one that failed, and the pause between them.
	Reconnects int
	Delay      time.Duration
}

// ReadGELF reads the options of gelf.
func ReadGELF(opts map[string]string) (r GELFReceiver, err error) {
	r = GELFReceiver{Compression: "gzip", Level: flate.BestSpeed, Reconnects: 3, Delay: time.Second}
	address := opts["gelf-address"]
	if address == "" {
		return r, errors.New("gelf-address is a required parameter")
	}
	u, err := url.Parse(address)
	if err != nil {
		return r, err
	}
	if u.Scheme != "udp" && u.Scheme != "tcp" {
		return r, errors.New("gelf: endpoint needs to be TCP or UDP")
	}
	if _, _, err = net.SplitHostPort(u.Host); err != nil {
		return r, errors.New("gelf: please provide gelf-address as proto://host:port")
	}
	r.Proto, r.Address = u.Scheme, u.Host
	if v, ok := opts["gelf-compression-level"]; ok {
		if r.Proto != "udp" {
			return r, errors.New("compression is only supported on UDP")
		}
		if r.Level, err = strconv.Atoi(v); err != nil || r.Level < flate.DefaultCompression || r.Level > flate.BestCompression {
			return r, fmt.Errorf("unknown value %q for log opt %q for gelf log driver", v, "gelf-compression-level")
		}
	}
	if v, ok := opts["gelf-compression-type"]; ok {
		if r.Proto != "udp" {
			return r, errors.New("compression is only supported on UDP")
		}
		if r.Compression = v; v != "gzip" && v != "zlib" && v != "none" {
			return r, fmt.Errorf("unknown value %q for log opt %q for gelf log driver", v, "gelf-compression-type")
		}
	}
	for _, k := range []string{"gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"} {
		v, ok := opts[k]
		if !ok {
			continue
		}
		if r.Proto != "tcp" {
			return r, fmt.Errorf("%q is only valid for TCP", k)
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return r, fmt.Errorf("%q must be a positive integer", k)
		}
		if k == "gelf-tcp-max-reconnect" {
			r.Reconnects = n
		} else {
			r.Delay = time.Duration(n) * time.Second
		}
	}
	return r, nil
}

// FluentdReceiver is what the options of fluentd say.
type FluentdReceiver struct {
	Proto, Host  string // tcp, tls or unix
	Port         int
	Path         string // of unix
	BufferLimit  int    // bytes
	MaxRetries   int
	RetryWait    time.Duration
	Reconnect    time.Duration // of fluentd-async; 0: never without a reason
	WriteTimeout time.Duration
	ReadTimeout  time.Duration
	// Async changes nothing: no container ever waits for a receiver.
	Async, Ack, SubSecond bool
}

// ReadFluentd reads the options of fluentd.
func ReadFluentd(opts map[string]string) (r FluentdReceiver, err error) {
	r = FluentdReceiver{BufferLimit: 1 << 20, MaxRetries: math.MaxInt32, RetryWait: time.Second}
	if err := r.address(opts["fluentd-address"]); err != nil {
		return r, fmt.Errorf("invalid fluentd-address (%s): %w", opts["fluentd-address"], err)
	}
	if v := opts["fluentd-buffer-limit"]; v != "" {
		n, err := units.RAMInBytes(v)
		if err != nil {
			return r, err
		}
		if n <= 0 || n > math.MaxInt32 {
			return r, fmt.Errorf("invalid fluentd-buffer-limit %q: value out of range", v)
		}
		r.BufferLimit = int(n)
	}
	if v := opts["fluentd-max-retries"]; v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return r, err
		}
		if n > math.MaxInt32 {
			return r, errors.New("invalid fluentd-max-retries: value out of range")
		}
		r.MaxRetries = int(n)
	}
	for k, to := range map[string]*bool{"fluentd-async": &r.Async, "fluentd-sub-second-precision": &r.SubSecond, "fluentd-request-ack": &r.Ack} {
		if v := opts[k]; v != "" {
			if *to, err = strconv.ParseBool(v); err != nil {
				return r, fmt.Errorf("%s: %w", k, err)
			}
		}
	}
	return r, r.durations(opts)
}

func (r *FluentdReceiver) durations(opts map[string]string) error {
	for k, to := range map[string]*time.Duration{"fluentd-retry-wait": &r.RetryWait, "fluentd-async-reconnect-interval": &r.Reconnect,
		"fluentd-write-timeout": &r.WriteTimeout, "fluentd-read-timeout": &r.ReadTimeout} {
		v := opts[k]
		if v == "" {
			continue
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("invalid value for %s: value must be a duration: %w", k, err)
		}
		if d < 0 {
			return fmt.Errorf("invalid value for %s: value must be a duration that is non-negative", k)
		}
		*to = d
	}
	if d := r.Reconnect; d != 0 && (d < 100*time.Millisecond || d > 10*time.Second) {
		return fmt.Errorf("invalid value for fluentd-async-reconnect-interval: value (%q) must be between 100ms and 10s", d)
	}
	return nil
}

func (r *FluentdReceiver) address(s string) error {
	r.Proto, r.Host, r.Port = "tcp", "127.0.0.1", 24224
	if s == "" {
		return nil
	}
	if !strings.Contains(s, "://") {
		s = "tcp://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	r.Proto = u.Scheme
	switch u.Scheme {
	case "unix":
		if strings.TrimLeft(u.Path, "/") == "" {
			return errors.New("path is empty")
		}
		r.Path = u.Path
		return nil
	case "tcp", "tls":
	default:
		return fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	if u.Path != "" {
		return errors.New("should not contain a path element")
	}
	if h := u.Hostname(); h != "" {
		r.Host = h
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return fmt.Errorf("invalid port: %w", err)
		}
		r.Port = int(n)
	}
	return nil
}
