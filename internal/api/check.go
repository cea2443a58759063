package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/registry"

	"hezi/internal/image"
	"hezi/internal/image/check"
)

// diskRoutes are about what the engine has on disk. /system/check is Hezi's own.
var diskRoutes = []route{
	{method: "POST", path: "/system/check", handle: systemCheck},
	{method: "POST", path: "/images/prune", handle: imagePrune},
	{method: "GET", path: "/system/df", handle: systemDF},
	{method: "POST", path: "/build/prune", handle: buildPrune},
}

// systemCheck verifies what the engine keeps, and streams JSON lines: progress,
// problems as they are found, and the report.
func systemCheck(c *call) error {
	auths, err := registryAuths(c)
	if err != nil {
		return err
	}
	out := &lines{c: c}
	_, err = c.backend.Upkeep.Check(c.ctx(), image.CheckRequest{
		Options: check.Options{Content: c.flag("images"), Repair: c.flag("repair")}, Auths: auths,
	}, out.event)
	return out.end(err)
}

// registryAuths are the client's credentials for all registries, as a build
// sends them.
func registryAuths(c *call) (map[string]registry.AuthConfig, error) {
	h := c.r.Header.Get("X-Registry-Config")
	if h == "" {
		return nil, nil
	}
	body, err := base64.URLEncoding.DecodeString(h)
	var auths map[string]registry.AuthConfig
	if err == nil {
		err = json.Unmarshal(body, &auths)
	}
	if err != nil {
		return nil, invalid("bad X-Registry-Config header", err)
	}
	return auths, nil
}

// progressPause is the least time between two lines of progress.
const progressPause = 100 * time.Millisecond

// lines writes a stream of JSON objects, one a line.
type lines struct {
	c *call

	mu    sync.Mutex // guards what follows, and the writer
	begun bool
	last  time.Time // when progress was told
}

func (l *lines) event(e check.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Progress != nil {
		if time.Since(l.last) < progressPause {
			return
		}
		l.last = time.Now()
	}
	l.sendLocked(e)
}

func (l *lines) sendLocked(v any) {
	body, err := json.Marshal(v)
	if err != nil {
		l.c.log.Error("a line could not be written as JSON", "error", err)
		return
	}
	if !l.begun {
		l.begun = true
		l.c.w.Header().Set("Content-Type", "application/x-ndjson")
		l.c.w.WriteHeader(http.StatusOK)
	}
	_, _ = l.c.w.Write(append(body, '\n')) // a client that is gone ends the request's context
	l.c.flush()
}

// end puts an error into a stream that has begun.
func (l *lines) end(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil || !l.begun {
		return err
	}
	l.sendLocked(struct{ Error string }{err.Error()})
	return nil
}
