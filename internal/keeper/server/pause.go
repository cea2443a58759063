package server

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"hezi/internal/keeper"
)

// freezePatience bounds how long a freeze waits for execs that start: whoever asked for
// them would else wait until the container is thawed.
const freezePatience = 5 * time.Second

// beginExec lets an exec start in a container that is not frozen. endExec follows.
func (p *process) beginExec() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rec.Paused || p.still != nil {
		return keeper.Classed(errdefs.ErrConflict, fmt.Sprintf("container %s is paused, unpause the container before exec", p.rec.ContainerID))
	}
	p.starting++
	return nil
}

func (p *process) endExec() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.starting--; p.starting == 0 && p.still != nil {
		close(p.still)
	}
}

// pause freezes a container between the starts of execs, or lets it go on.
func (s *Server) pause(p *process, freeze bool) error {
	if p.exit() != nil {
		return keeper.Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("container %s is not running", p.rec.ContainerID))
	}
	if freeze {
		if err := p.awaitExecs(); err != nil {
			return err
		}
	}
	err := standStill(s, p.snapshot(), freeze)
	p.mu.Lock()
	if err == nil {
		p.rec.Paused = freeze
	}
	if freeze {
		p.still = nil
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.update()
}

// awaitExecs refuses new execs, and waits for those that start.
func (p *process) awaitExecs() error {
	p.mu.Lock()
	if p.still != nil {
		p.mu.Unlock()
		return keeper.Classed(errdefs.ErrConflict, fmt.Sprintf("container %s is being paused", p.rec.ContainerID))
	}
	still, none := make(chan struct{}), p.starting == 0
	p.still = still
	p.mu.Unlock()
	if none {
		return nil
	}
	select {
	case <-still:
	case <-p.exited:
	case <-time.After(freezePatience):
		p.srv.logger.Warn("a container is paused while an exec starts, which takes long", "container", p.rec.ContainerID)
	}
	return nil
}
