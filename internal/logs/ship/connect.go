package ship

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hezi/internal/logs/options"
)

// connect reaches the receiver.
func connect(ctx context.Context, c *Container) (sender, error) {
	switch c.Driver {
	case options.Syslog:
		return newSyslog(ctx, c)
	case options.GELF:
		return newGELF(ctx, c)
	case options.Fluentd:
		return newFluentd(ctx, c)
	case options.Journald:
		return newJournald(ctx, c)
	}
	return nil, errors.New("no receiver is known for the log driver " + c.Driver)
}

// firstTries is how often a receiver is tried with the same pause; after that the
// pause grows.
func firstTries(c *Container) (n int, pause time.Duration) {
	switch c.Driver {
	case options.GELF:
		if r, err := options.ReadGELF(c.Info.Config); err == nil && r.Proto == "tcp" {
			return r.Reconnects, r.Delay
		}
	case options.Fluentd:
		if r, err := options.ReadFluentd(c.Info.Config); err == nil {
			return r.MaxRetries, min(r.RetryWait, slowest)
		}
	}
	return 3, 100 * time.Millisecond
}

// identity is the tag and the attributes, which each driver names in its way.
func identity(c *Container, name func(string) string) (tag string, attrs map[string]string, err error) {
	if tag, err = c.Info.Tag(options.DefaultTag); err != nil {
		return "", nil, fmt.Errorf("the tag: %w", err)
	}
	attrs, err = c.Info.Attributes(name)
	return tag, attrs, err
}
