// Command hezi-hello is the program of the built-in image hezi/hello. Without
// arguments it greets and shows what its box looks like from inside; `serve`
// answers the same over HTTP. It is static and small (no net/http), reads
// only /proc, /sys and /etc, and needs nothing else in its image.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

const usage = `usage: hello              greet, and show what this box looks like from inside
       hello serve [PORT] serve the same as a web page (port 8080 unless given)
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process around it; it gives the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 0:
		if _, err := io.WriteString(stdout, greeting(look("/"))); err != nil {
			return 1
		}
		return 0
	case args[0] == "-h" || args[0] == "--help" || args[0] == "help":
		fmt.Fprint(stdout, usage)
		return 0
	case args[0] != "serve" || len(args) > 2:
		fmt.Fprintf(stderr, "hello: unknown argument %q\n%s", args[len(args)-1], usage)
		return 2
	}
	port := uint64(8080)
	if len(args) == 2 {
		var err error
		if port, err = strconv.ParseUint(args[1], 10, 16); err != nil {
			fmt.Fprintf(stderr, "hello: %q is not a port: give a number from 0 to 65535\n%s", args[1], usage)
			return 2
		}
	}
	if err := serve(ctx, port, stdout); err != nil {
		fmt.Fprintf(stderr, "hello: %v\n", err)
		return 1
	}
	return 0
}
