package box

import (
	"context"
	"path"
	"strings"
	"time"

	"hezi/internal/box/plan"
)

// stock is the part of a plan that a spare init can build before it knows its
// box: /proc with its masks, /dev with what is in it, and the cgroup's own
// directories. The latest box's is made for the next one, which most often is
// alike.
type stock struct {
	plan plan.Plan
	key  string // equal stocks have equal ones
}

const stockTime = 5 * time.Second // for a spare to build it

// stockOf is the stock of a plan, or nil when the box needs its own order: a
// mount of the user's in /proc must lie below the masks.
func stockOf(p *plan.Plan) *stock {
	if p.FileLabel != "" { // no other box has it
		return nil
	}
	s := plan.Plan{Stock: true, Root: plan.NoFD, Null: plan.NoFD, Tiny: plan.NoFD, UserFD: plan.NoFD, CgroupDir: plan.NoFD,
		Stdio: [3]int{plan.NoFD, plan.NoFD, plan.NoFD}, UnshareCgroup: p.UnshareCgroup}
	found := map[string]bool{}
	for i := range p.Mounts {
		m := p.Mounts[i]
		at := path.Clean(m.Target)
		switch {
		case m.Type == MountProc && at == "/proc", m.Type == MountTmpfs && at == "/dev", m.Type == MountCgroup && at == "/sys/fs/cgroup", plan.InDev(&m):
			found[at] = true
			m.Hierarchies = nil
			s.Mounts = append(s.Mounts, m)
		case strings.HasPrefix(at, "/proc/"), strings.HasPrefix(at, "/sys/fs/cgroup/"), m.Type == MountProc, m.Type == MountCgroup:
			return nil
		}
	}
	if !found["/proc"] || !found["/dev"] || !found["/sys/fs/cgroup"] || !p.UnshareCgroup || p.CgroupV2 {
		return nil
	}
	s.Masked, s.Readonly = below(p.Masked, "/proc/"), below(p.Readonly, "/proc/")
	return &stock{plan: s, key: string(plan.Encode(&s))}
}

func below(paths []string, dir string) []string {
	var out []string
	for _, p := range paths {
		if strings.HasPrefix(p, dir) {
			out = append(out, p)
		}
	}
	return out
}

// outfit has the spare build the stock and waits until it has.
func (s *spare) outfit(k *stock) error {
	b := newBundle()
	defer b.close()
	b.plan = k.plan
	b.plan.Mounts = append([]plan.Mount(nil), k.plan.Mounts...) // hierarchies are added
	if err := b.hierarchies(s.paths); err != nil {
		return err
	}
	if err := b.null(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stockTime)
	defer cancel()
	defer s.watch(ctx)()
	if err := s.sendPlan(b); err != nil {
		return err
	}
	text, _, err := s.receive()
	if err == nil && text[0] == plan.Built {
		s.stock = k.key
		return nil
	}
	if err == nil {
		err = failure(text)
	}
	return err
}
