// Package options reads --log-driver and --log-opt, and daemon.json's log-driver
// and log-opts, as Docker does: which options a driver has, what they mean, which
// attributes and which tag a container's lines get. It reaches no receiver.
package options

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Drivers by what becomes of the lines. The remote ones keep the file of local,
// from which the engine ships.
const (
	JSONFile = "json-file"
	Local    = "local"
	None     = "none"
	Journald = "journald"
	Syslog   = "syslog"
	Fluentd  = "fluentd"
	GELF     = "gelf"
)

// Drivers are all that work here, sorted.
func Drivers() []string {
	return []string{Fluentd, GELF, Journald, JSONFile, Local, None, Syslog}
}

// Remote says whether the driver's lines are shipped to a receiver.
func Remote(driver string) bool {
	return driver == Journald || driver == Syslog || driver == Fluentd || driver == GELF
}

// What a file is bounded by where nothing is said.
const (
	defaultSize  = 20 << 20
	defaultFiles = 5
	// defaultBuffer is of mode non-blocking, in bytes (moby's logger/ring.go).
	defaultBuffer = 1 << 20
)

// File is what the options say about the file that a container's lines are written to.
type File struct {
	MaxSize  int64 // bytes; 0: no limit
	MaxFiles int
	Compress bool
	// Buffer, in bytes, bounds what waits for a slow disk; what is more is dropped.
	// 0: nothing is dropped, the container waits.
	Buffer int64
	// Unread: the file is only a queue, and must not be shown (cache-disabled).
	Unread bool
}

// cachePrefix is of a remote driver's options that concern its local file.
const cachePrefix = "cache-"

var attributes = []string{"env", "env-regex", "labels", "labels-regex", "tag"}

// own are a driver's options beside attributes and mode.
var own = map[string][]string{
	JSONFile: {"compress", "max-file", "max-size"},
	Local:    {"compress", "max-file", "max-size"},
	Journald: nil,
	Syslog: {"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key",
		"syslog-tls-skip-verify"},
	Fluentd: {"fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval", "fluentd-buffer-limit", "fluentd-max-retries",
		"fluentd-read-timeout", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision", "fluentd-write-timeout"},
	GELF: {"gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"},
}

// cacheOptions are accepted for every driver, as Docker does.
func cacheOptions() []string {
	list := []string{cachePrefix + "disabled"}
	for _, k := range slices.Concat(own[Local], attributes) {
		list = append(list, cachePrefix+k)
	}
	return list
}

// elsewhere are Docker's drivers that Hezi has not, and what to use.
var elsewhere = map[string]string{
	"awslogs": "use fluentd or syslog with the CloudWatch agent or Fluent Bit as the receiver",
	"splunk":  "use fluentd, gelf or syslog with a Splunk forwarder, Fluent Bit or the OpenTelemetry collector as the receiver",
	"gcplogs": "use journald or fluentd with Google's Ops Agent or Fluent Bit as the receiver",
	"etwlogs": "it is of Windows: use json-file, local or journald",
}

// Merge completes a container's driver and options by the daemon's, as Docker does.
func Merge(driver string, opts map[string]string, defaultDriver string, defaults map[string]string) (string, map[string]string) {
	if driver == "" {
		driver = defaultDriver
	}
	merged := map[string]string{}
	cache := cacheOptions()
	for k, v := range defaults {
		if driver == defaultDriver || slices.Contains(cache, k) {
			merged[k] = v
		}
	}
	maps.Copy(merged, opts)
	return driver, merged
}

// Check says what is wrong with a driver's options, in Docker's words.
func Check(driver string, opts map[string]string) error {
	if driver == None {
		return nil
	}
	if err := checkMode(opts); err != nil {
		return err
	}
	names, ok := own[driver]
	if !ok {
		err := fmt.Errorf("logger: no log driver named '%s' is registered", driver)
		if hint := elsewhere[driver]; hint != "" {
			return fmt.Errorf("%w: %s", err, hint)
		}
		return fmt.Errorf("%w: use one of %s", err, strings.Join(Drivers(), ", "))
	}
	known := slices.Concat(names, attributes, cacheOptions(), []string{"mode", "max-buffer-size"})
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		if !slices.Contains(known, k) {
			return unknownOption(driver, k)
		}
	}
	if err := checkRemote(driver, opts); err != nil {
		return err
	}
	if _, err := Read(driver, opts); err != nil {
		return fmt.Errorf("failed to initialize logging driver: %w", err)
	}
	return nil
}

// unknownOption has Docker's words, which differ from driver to driver.
func unknownOption(driver, key string) error {
	switch driver {
	case Local:
		return fmt.Errorf("unknown log opt '%s' for log driver %s", key, driver)
	case GELF:
		return fmt.Errorf("unknown log opt %q for gelf log driver", key)
	}
	return fmt.Errorf("unknown log opt '%s' for %s log driver", key, driver)
}

func checkMode(opts map[string]string) error {
	switch opts["mode"] {
	case "", "blocking", "non-blocking":
	default:
		return fmt.Errorf("logger: logging mode not supported: %s", opts["mode"])
	}
	if s, ok := opts["max-buffer-size"]; ok {
		if opts["mode"] != "non-blocking" {
			return errors.New("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
		}
		if n, err := units.RAMInBytes(s); err != nil {
			return fmt.Errorf("error parsing option max-buffer-size: %w", err)
		} else if n <= 0 {
			return fmt.Errorf("error parsing option max-buffer-size: %q is not more than nothing", s)
		}
	}
	if s := opts["cache-disabled"]; s != "" {
		if _, err := strconv.ParseBool(s); err != nil {
			return fmt.Errorf("invalid value for option cache-disabled: %s", s)
		}
	}
	return nil
}

// Read says how the file of a container with these options is kept: rotated and
// compressed where nothing else is said. A max-size of -1 lifts the limit.
func Read(driver string, opts map[string]string) (File, error) {
	f := File{MaxSize: defaultSize, MaxFiles: defaultFiles, Compress: true}
	prefix := ""
	if Remote(driver) {
		prefix = cachePrefix
		f.Unread, _ = strconv.ParseBool(opts["cache-disabled"])
	}
	if opts["mode"] == "non-blocking" {
		f.Buffer = defaultBuffer
		if s, ok := opts["max-buffer-size"]; ok {
			n, err := units.RAMInBytes(s)
			if err != nil {
				return f, err
			}
			f.Buffer = n
		}
	}
	if s, ok := opts[prefix+"max-size"]; ok && s == "-1" {
		f.MaxSize = 0
	} else if ok {
		n, err := units.FromHumanSize(s)
		if err != nil && driver != JSONFile {
			return f, fmt.Errorf("invalid value for %smax-size: %s: %w", prefix, s, err)
		}
		if err != nil {
			return f, err
		}
		if n <= 0 {
			return f, errors.New(prefix + "max-size must be a positive number")
		}
		f.MaxSize = n
	}
	if s, ok := opts[prefix+"max-file"]; ok {
		n, err := strconv.Atoi(s)
		if err != nil && driver != JSONFile {
			return f, fmt.Errorf("invalid value for %smax-file: %s: %w", prefix, s, err)
		}
		if err != nil {
			return f, err
		}
		if n < 1 {
			return f, errors.New(prefix + "max-file cannot be less than 1")
		}
		f.MaxFiles = n
	}
	return f, f.readCompress(driver, prefix+"compress", opts)
}

func (f *File) readCompress(driver, key string, opts map[string]string) error {
	rotated := f.MaxFiles > 1 && f.MaxSize > 0
	f.Compress = rotated
	s, ok := opts[key]
	if !ok {
		return nil
	}
	on, err := strconv.ParseBool(s)
	switch {
	case err != nil && driver != JSONFile:
		return fmt.Errorf("invalid boolean value for %s: %w", key, err)
	case err != nil:
		return err
	case on && !rotated && driver == JSONFile:
		return errors.New("compress cannot be true when max-file is less than 2 or max-size is not set")
	case on && !rotated:
		return errors.New("compression cannot be enabled when max file count is 1")
	}
	f.Compress = on
	return nil
}
