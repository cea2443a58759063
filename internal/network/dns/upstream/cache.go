package upstream

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"sync"
	"time"

	"hezi/internal/network/dns/wire"
)

const (
	maxCached  = 2 << 20         // bytes of all answers that are kept
	maxOne     = 4 << 10         // and of one
	overhead   = 256             // bytes that an answer takes beside its own
	longest    = time.Hour       // that an answer is kept
	longestNot = 5 * time.Minute // that it is kept that there is none (RFC 2308, 5)
)

// cache keeps answers as long as their records say.
type cache struct {
	mu    sync.Mutex
	byKey map[string]*list.Element
	order list.List // least lately used last
	size  int
}

type kept struct {
	key         string
	msg         []byte
	ttls        []int // places of the lifetimes in msg
	since, ends time.Time
}

func (k *kept) cost() int { return overhead + len(k.key) + len(k.msg) + 8*len(k.ttls) }

// get is a copy of an answer with what is left of its lifetimes.
func (c *cache) get(key string, now time.Time) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		return nil
	}
	k := e.Value.(*kept)
	if !now.Before(k.ends) {
		c.dropLocked(e)
		return nil
	}
	c.order.MoveToFront(e)
	msg, gone := bytes.Clone(k.msg), uint32(now.Sub(k.since)/time.Second)
	for _, at := range k.ttls {
		ttl := binary.BigEndian.Uint32(msg[at:])
		binary.BigEndian.PutUint32(msg[at:], ttl-min(ttl, gone))
	}
	return msg
}

// put keeps a whole answer that says how long it is good for.
func (c *cache) put(key string, msg []byte, now time.Time) {
	life, ttls := lifetime(msg)
	if life <= 0 || len(msg) > maxOne {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[key]; e != nil {
		c.dropLocked(e)
	}
	if c.byKey == nil {
		c.byKey = map[string]*list.Element{}
	}
	k := &kept{key: key, msg: bytes.Clone(msg), ttls: ttls, since: now, ends: now.Add(life)}
	c.byKey[key] = c.order.PushFront(k)
	for c.size += k.cost(); c.size > maxCached; {
		c.dropLocked(c.order.Back())
	}
}

func (c *cache) dropLocked(e *list.Element) {
	k := c.order.Remove(e).(*kept)
	delete(c.byKey, k.key)
	c.size -= k.cost()
}

// clear forgets all.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byKey, c.size = nil, 0
	c.order.Init()
}

// lifetime of an answer, 0 if it is not to be kept, and the places of its lifetimes.
func lifetime(msg []byte) (life time.Duration, ttls []int) {
	code := wire.Rcode(msg)
	if wire.Truncated(msg) || code != wire.Success && code != wire.NameError {
		return 0, nil
	}
	shortest, answers, negative := uint32(1<<32-1), 0, int64(-1)
	err := wire.Walk(msg, func(r wire.Record) error {
		if r.Type == wire.TypeOPT {
			return nil
		}
		if r.Section == wire.Answer {
			answers++
		}
		if n := len(r.Data); r.Section == wire.Authority && r.Type == wire.TypeSOA && n >= 4 {
			negative = int64(min(r.TTL, binary.BigEndian.Uint32(r.Data[n-4:])))
		}
		shortest, ttls = min(shortest, r.TTL), append(ttls, r.TTLAt)
		return nil
	})
	if err != nil || shortest > 1<<31-1 { // RFC 2181, 8: such a lifetime is none
		return 0, nil
	}
	if answers == 0 || code == wire.NameError {
		if negative < 0 {
			return 0, nil
		}
		return min(time.Duration(min(negative, int64(shortest)))*time.Second, longestNot), ttls
	}
	return min(time.Duration(shortest)*time.Second, longest), ttls
}
