package harness

import (
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// ScriptCommands are what test scripts know beside testscript's own:
//
//	exits CODE PROGRAM ARGS...    run it and ask for its exit code
//	eventually PROGRAM ARGS...    run it until it succeeds, for ten seconds
func ScriptCommands(e *Engine) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"exits": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < 2 {
				ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
			}
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			// The shell prints the code behind the program's own errors.
			script := `"$@"; code=$?; [ $code = ` + args[0] + ` ] || { echo "exit code $code, not ` + args[0] + `" >&2; exit 1; }`
			if err := ts.Exec("sh", append([]string{"-c", script, "sh"}, args[1:]...)...); err != nil {
				ts.Fatalf("%s: want exit code %d: %v", strings.Join(args[1:], " "), want, err)
			}
		},
		"eventually": func(ts *testscript.TestScript, neg bool, args []string) {
			var err error
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
					return
				}
			}
			ts.Fatalf("%s: after ten seconds: %v", strings.Join(args, " "), err)
		},
	}
}
