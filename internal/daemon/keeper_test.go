package daemon

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/internal/daemon/config"
	"hezi/internal/keeper"
	"hezi/internal/version"
)

// TestKeeperOfAnotherProtocol: a keeper that would ignore part of a request is
// not used, whether it refuses to be replaced or is replaced by its like.
func TestKeeperOfAnotherProtocol(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "hezi-keeper"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	for _, c := range []struct {
		name, want string
		info       keeper.Info
		replaced   bool
	}{
		{"the same", "", keeper.Info{Version: version.Version, ProtocolVersion: keeper.ProtocolVersion}, false},
		{"an older build", "", keeper.Info{Version: "older", ProtocolVersion: keeper.ProtocolVersion}, false},
		{"an older protocol", "speaks another protocol", keeper.Info{Version: "older", ProtocolVersion: keeper.ProtocolVersion - 1}, false},
		{"an older protocol again", "speaks another protocol", keeper.Info{Version: "older", ProtocolVersion: keeper.ProtocolVersion - 1}, true},
		{"a build without a version", "speaks another protocol", keeper.Info{Version: version.Version, ProtocolVersion: keeper.ProtocolVersion - 1}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, err := os.MkdirTemp("", "k") // a socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(root)
			if err := os.Mkdir(filepath.Join(root, "keeper"), 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: keeper.SocketPath(root)})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go answer(t, l, c.info, c.replaced)
			d := &daemon{log: quiet()}
			_, _, err = d.openKeeper(t.Context(), &config.Config{ExecRoot: root}, "")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// answer is a keeper that only says what it is, and takes an upgrade or not.
func answer(t *testing.T, l *net.UnixListener, info keeper.Info, replaced bool) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		var req keeper.Request
		if _, err := keeper.ReadFrame(c, &req); err == nil {
			var r keeper.Response
			switch {
			case req.Op == keeper.OpInfo:
				r.Body, err = json.Marshal(info)
			case replaced:
				info.Generation++
			default:
				r.Error = &keeper.WireError{Class: "precondition", Message: "no"}
			}
			if err == nil {
				err = keeper.WriteFrame(c, r)
			}
			if err != nil {
				t.Error(err)
			}
		}
		c.Close()
	}
}
