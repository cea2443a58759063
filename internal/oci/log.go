package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// logger adds lines to a file that callers read (conmon, containerd), as logrus has
// them. Without a file what is not an error goes to standard error.
type logger struct {
	file, format string
	verbose      bool
}

func (l *logger) debug(message string) {
	if !l.verbose {
		return
	}
	if err := l.write("debug", message); err != nil {
		fmt.Fprintln(os.Stderr, "hezi-keeper oci: "+err.Error())
	}
}

func (l *logger) write(level, message string) error {
	var line []byte
	now := time.Now().Format(time.RFC3339)
	if l.format == "json" {
		var err error
		if line, err = json.Marshal(map[string]string{"level": level, "msg": message, "time": now}); err != nil {
			return err
		}
		line = append(line, '\n')
	} else {
		line = fmt.Appendf(nil, "time=%q level=%s msg=%q\n", now, level, message)
	}
	if l.file == "" {
		if level != "debug" {
			return nil // it is there without this
		}
		_, err := os.Stderr.Write(line)
		return err
	}
	f, err := os.OpenFile(l.file, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(line)
	return err
}
