package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Limits are what a configuration says about the disk.
type Limits struct {
	High string // "50GB", "20%" of the disk; "": no budget
	Low  string // where removal stops: a size, or a share of High; "": 90%
}

// Check says what is wrong with limits.
func (l Limits) Check() error {
	if l.High == "" {
		if l.Low != "" {
			return errors.New("disk-budget-low needs a disk-budget")
		}
		return nil
	}
	high, err := amount(l.High, 1<<62)
	if err != nil || high <= 0 {
		return fmt.Errorf("disk-budget %q: a size is needed, as in \"50GB\", or a share of the disk, as in \"20%%\"", l.High)
	}
	if l.Low == "" {
		return nil
	}
	low, err := amount(l.Low, high)
	if err != nil || low <= 0 {
		return fmt.Errorf("disk-budget-low %q: a size is needed, as in \"45GB\", or a share of the budget, as in \"90%%\"", l.Low)
	}
	if low > high && strings.HasSuffix(l.High, "%") == strings.HasSuffix(l.Low, "%") {
		return fmt.Errorf("disk-budget-low %s is more than the disk-budget of %s", l.Low, l.High)
	}
	return nil
}

// amount reads a size, or a share of whole.
func amount(s string, whole int64) (int64, error) {
	if share, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(strings.TrimSpace(share), 64)
		if err != nil || f < 0 || f > 100 {
			return 0, fmt.Errorf("%q is no share from 0%% to 100%%", s)
		}
		return int64(f / 100 * float64(whole)), nil
	}
	return units.FromHumanSize(s)
}

// marks are limits in bytes on a disk of a size.
func (l Limits) marks(total int64) (high, low int64) {
	high, err := amount(l.High, total)
	if l.High == "" || err != nil {
		return 0, 0
	}
	low = high / 10 * 9
	if n, err := amount(l.Low, high); l.Low != "" && err == nil {
		low = min(n, high)
	}
	return high, low
}

// Evicter removes images for the budget.
type Evicter interface {
	// Evict removes what pulls that were cut off left, and then the images that
	// were unused for longest, until need bytes on disk are freed or nothing more
	// may go: what a container has, what was used since, and what is labelled
	// hezi.keep=true stays. why is told with each.
	Evict(ctx context.Context, need int64, since time.Time, why string) (freed int64, err error)
}

// BudgetState is the budget as it is shown.
type BudgetState struct {
	Limit, LowWater int64
	// Used is everything but volumes and the reserve.
	Used int64
	// Over says since when nothing more could be removed though the budget is
	// exceeded.
	Over *time.Time `json:",omitempty"`
}

// Budget keeps the data root within limits by removing images.
type Budget struct {
	root    string
	meter   *Meter
	evicter Evicter
	reserve *Reserve
	log     *slog.Logger
	wake    chan struct{}
	// Trash gives up removed volumes, the first of all, until need bytes are freed;
	// nil: there are none. It is set before Run.
	Trash func(ctx context.Context, need int64) (freed int64, err error)

	mu     sync.Mutex // guards what follows
	limits Limits
	over   time.Time // zero: within, or nothing tried yet
}

const (
	budgetPause = 10 * time.Minute
	trashPause  = 15 * time.Second
	// fresh is how long an image that was used is safe: a pull may go before
	// the container that it is for.
	fresh = 10 * time.Minute
	// scarce is what must be free, in sizes of the reserve, for an engine with a
	// budget.
	scarce = 2
)

// NewBudget makes one; Run works.
func NewBudget(m *Meter, e Evicter, r *Reserve, l Limits, log *slog.Logger) *Budget {
	b := &Budget{root: m.Root, meter: m, evicter: e, reserve: r, log: log, wake: make(chan struct{}, 1), limits: l}
	m.Budget = b
	return b
}

// SetLimits takes a new configuration.
func (b *Budget) SetLimits(l Limits) {
	b.mu.Lock()
	b.limits, b.over = l, time.Time{}
	b.mu.Unlock()
	b.Changed()
}

// Changed says that something was added. It never waits.
func (b *Budget) Changed() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Run keeps the budget until ctx ends.
func (b *Budget) Run(ctx context.Context) {
	tick := time.NewTicker(budgetPause)
	defer tick.Stop()
	look := time.NewTicker(trashPause)
	defer look.Stop()
	for {
		b.spare(ctx)
		b.reserve.Make()
		if err := b.keep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			b.log.Warn("the disk budget could not be looked after", "error", err)
		}
		if !b.wait(ctx, tick.C, look.C) {
			return
		}
	}
}

// wait waits until the budget is to be looked after; false is the end.
func (b *Budget) wait(ctx context.Context, tick, look <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-b.wake:
			return true
		case <-tick:
			return true
		case <-look: // which costs nothing while there is space
			b.spare(ctx)
			b.reserve.Make()
		}
	}
}

// spare gives up removed volumes where the disk is nearly full, also without a
// budget: somebody who writes needs their space.
func (b *Budget) spare(ctx context.Context) {
	if b.Trash == nil {
		return
	}
	free, _, err := space(b.root)
	if short := scarce*b.reserve.size - free; err == nil && short > 0 {
		_, err = b.Trash(ctx, short)
	}
	var st unix.Statfs_t
	for freed := int64(1); err == nil && freed > 0 && unix.Statfs(b.root, &st) == nil && noInodes(&st); {
		freed, err = b.Trash(ctx, 1)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Warn("removed volumes could not be given up", "error", err)
	}
}

// keep removes what is too much.
func (b *Budget) keep(ctx context.Context, now time.Time) error {
	b.mu.Lock()
	limits := b.limits
	b.mu.Unlock()
	if limits.High == "" {
		return nil
	}
	r, err := b.meter.Report(ctx, Want{Images: true, Containers: true, Volumes: true, Own: true})
	if err != nil {
		return err
	}
	state := b.State(r.Own)
	need, why := int64(0), ""
	if state.Used > state.Limit {
		need = state.Used - state.LowWater
		why = fmt.Sprintf("disk budget: %s of %s were used", units.HumanSize(float64(state.Used)), units.HumanSize(float64(state.Limit)))
	}
	if short := scarce*b.reserve.size - r.Own.DiskFree; short > need {
		need, why = short, fmt.Sprintf("the disk is nearly full: %s were free", units.HumanSize(float64(r.Own.DiskFree)))
	}
	if need <= 0 {
		b.setOver(time.Time{})
		return nil
	}
	freed := int64(0)
	if b.Trash != nil {
		if freed, err = b.Trash(ctx, need); err != nil {
			return err
		}
	}
	if freed < need {
		more, err := b.evicter.Evict(ctx, need-freed, now.Add(-fresh), why)
		if err != nil {
			return err
		}
		freed += more
	}
	if freed < need {
		if b.setOver(now) {
			b.log.Warn("the disk budget is exceeded, and nothing more can be removed: the rest is used by containers, kept by a label or was used just now",
				"used", units.HumanSize(float64(state.Used-freed)), "budget", units.HumanSize(float64(state.Limit)))
		}
		return nil
	}
	b.setOver(time.Time{})
	return nil
}

// setOver remembers since when the budget is exceeded; first says whether that
// is new.
func (b *Budget) setOver(at time.Time) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first = b.over.IsZero() && !at.IsZero()
	if b.over.IsZero() || at.IsZero() {
		b.over = at
	}
	return first
}

// State is the budget beside what is used; nil without one.
func (b *Budget) State(o *Own) *BudgetState {
	b.mu.Lock()
	defer b.mu.Unlock()
	high, low := b.limits.marks(o.DiskSize)
	if high == 0 {
		return nil
	}
	s := &BudgetState{Limit: high, LowWater: low, Used: o.Total - o.volumes - o.Reserve.Size}
	if !b.over.IsZero() {
		over := b.over
		s.Over = &over
	}
	return s
}
