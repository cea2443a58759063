// Command man writes the manual pages of hezi's commands and of hezid into a folder. They
// are of SOURCE_DATE_EPOCH, where that is set.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra/doc"

	"hezi/internal/cli"
	"hezi/internal/daemon/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: man FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	header := &doc.GenManHeader{Title: "HEZI", Section: "1", Source: "Hezi", Manual: "Hezi"}
	if err := doc.GenManTree(cli.Tree(), header, dir); err != nil {
		return err
	}
	_, err := config.Load([]string{"--help"})
	var help *config.ErrHelp
	if !errors.As(err, &help) {
		return fmt.Errorf("hezid's help: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "hezid.8"), []byte(daemon(help.Text)), 0o644)
}

// daemon is hezid's page around its help.
func daemon(help string) string {
	_, options, _ := strings.Cut(help, "Options:\n")
	options = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(options)
	lines := strings.Split(options, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return `.TH HEZID 8 "" "Hezi" "Hezi"
.SH NAME
hezid \- the engine of Hezi
.SH SYNOPSIS
.B hezid
.RI [ OPTIONS ]
.SH DESCRIPTION
The engine serves the Docker Engine API on a socket, by default /run/hezi/hezi.sock, and on those that systemd passes.
Containers do not depend on it: when it is stopped, killed or replaced they run on.
.PP
It reads /etc/hezi/daemon.json, in which comments and trailing commas are allowed. An option overrides a key of the file.
SIGHUP has the file read again; what cannot change without a restart is said in the log. "hezid \-\-validate" checks the file.
.SH OPTIONS
.nf
` + strings.Join(lines, "\n") + `
.fi
.SH FILES
.TP
/etc/hezi/daemon.json
the configuration
.TP
/var/lib/hezi
images, volumes and containers
.TP
/run/hezi
sockets, and what lasts until the next boot
.SH SEE ALSO
.BR hezi (1)
`
}
