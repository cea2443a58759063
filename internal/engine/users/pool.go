package users

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"

	"hezi/internal/box"
)

// Owner is whose subordinate ids (subuid(5)) containers get.
const Owner = "hezi"

// Range is Size ids from Start on.
type Range struct{ Start, Size uint32 }

func (r Range) end() uint64 { return uint64(r.Start) + uint64(r.Size) }

// ParseRange reads START:SIZE.
func ParseRange(s string) (Range, error) {
	start, size, _ := strings.Cut(s, ":")
	a, err := strconv.ParseUint(start, 10, 32)
	n, err2 := strconv.ParseUint(size, 10, 32)
	if err != nil || err2 != nil || a == 0 || n == 0 || a+n > 1<<32-1 {
		return Range{}, fmt.Errorf("userns-auto-range %q: write START:SIZE, the first id on the host and how many, as in 524288:16777216", s)
	}
	return Range{uint32(a), uint32(n)}, nil
}

// Pool gives each container a range of its own. It holds what is given in
// memory: the records of the containers keep it, and claim it again at start.
type Pool struct {
	fixed  []Range // configured; nil: /etc/subuid and /etc/subgid say it
	subUID string  // files
	subGID string

	mu    sync.Mutex // guards what follows
	given map[string]Range
}

// NewPool is over a configured range, or over what the host has for Owner.
func NewPool(configured *Range) *Pool {
	p := &Pool{subUID: "/etc/subuid", subGID: "/etc/subgid", given: map[string]Range{}}
	if configured != nil {
		p.fixed = []Range{*configured}
	}
	return p
}

// Take gives a container the first free range of a size. Errors:
// ResourceExhausted when there is none, FailedPrecondition without a pool.
func (p *Pool) Take(id string, size uint32) (*box.Users, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.fixed
	if all == nil {
		var err error
		if all, err = subordinate(p.subUID, p.subGID); err != nil {
			return nil, err
		}
	}
	taken := make([]Range, 0, len(p.given))
	for _, r := range p.given {
		taken = append(taken, r)
	}
	slices.SortFunc(taken, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	for _, r := range all {
		at := uint64(r.Start)
		for _, t := range taken {
			if t.end() > at && uint64(t.Start) < at+uint64(size) {
				at = t.end()
			}
		}
		if at+uint64(size) <= r.end() {
			got := Range{uint32(at), size}
			p.given[id] = got
			return got.users(), nil
		}
	}
	return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no %d free ids are left for a container of its own user namespace: %d containers have theirs: remove some, give more ids to %s in /etc/subuid and /etc/subgid (or by userns-auto-range), or ask for fewer with --userns=auto:size=N", size, len(taken), Owner))
}

func (r Range) users() *box.Users {
	m := []box.IDMap{{Container: 0, Host: r.Start, Size: r.Size}}
	return &box.Users{UIDs: m, GIDs: m}
}

// Claim takes what a container has from before. A Conflict says that another
// has some of it too.
func (p *Pool) Claim(id string, u *box.Users) error {
	if len(u.UIDs) != 1 {
		return nil
	}
	r := Range{u.UIDs[0].Host, u.UIDs[0].Size}
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for other, o := range p.given {
		if other != id && uint64(o.Start) < r.end() && uint64(r.Start) < o.end() {
			err = errdefs.ErrConflict.WithMessage(fmt.Sprintf("containers %s and %s have the same ids on the host", id, other))
		}
	}
	p.given[id] = r
	return err
}

// Give takes a container's range back; one without is none of its business.
func (p *Pool) Give(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.given, id)
}

// subordinate are the ids that Owner has both as users and as groups.
func subordinate(uids, gids string) ([]Range, error) {
	read := func(file string) ([]user.SubID, error) {
		list, err := user.ParseSubIDFileFilter(file, func(s user.SubID) bool {
			return s.Name == Owner && s.SubID > 0 && s.Count > 0 && s.SubID+s.Count < 1<<32
		})
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the ids for containers in %s: %w", file, err)
		}
		return list, nil
	}
	us, err := read(uids)
	if err != nil {
		return nil, err
	}
	gs, err := read(gids)
	if err != nil {
		return nil, err
	}
	var both []Range
	for _, u := range us {
		for _, g := range gs {
			from, to := max(u.SubID, g.SubID), min(u.SubID+u.Count, g.SubID+g.Count)
			if from < to {
				both = append(both, Range{uint32(from), uint32(to - from)})
			}
		}
	}
	if len(both) == 0 {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("there are no ids for containers with user namespaces of their own: add the line %s:%d:16777216 to %s and to %s, or set userns-auto-range in daemon.json", Owner, free(uids, gids), uids, gids))
	}
	return both, nil
}

// free proposes where a range can start that nobody has.
func free(files ...string) int64 {
	at := int64(524288)
	for _, f := range files {
		list, err := user.ParseSubIDFile(f)
		if err != nil {
			continue
		}
		for _, s := range list {
			at = max(at, s.SubID+s.Count)
		}
	}
	return at
}
