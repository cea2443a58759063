package config

import (
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine/users"
)

// checkUsers checks what is about namespaces of containers' own.
func (c *Config) checkUsers() error {
	switch c.IPCMode {
	case "", "private", "shareable":
	default:
		return fmt.Errorf("default-ipc-mode %q: private or shareable is needed", c.IPCMode)
	}
	mode, err := users.Parse(container.UsernsMode(c.Userns))
	if err != nil {
		return err
	}
	if mode.Auto && c.UsernsRemap != "" {
		return errors.New("userns and userns-remap are both set: one mapping for all containers, or ids of its own for each")
	}
	_, err = c.UserRange()
	return err
}

// UserRange is what userns-auto-range says; nil: nothing.
func (c *Config) UserRange() (*users.Range, error) {
	if c.UsernsRange == "" {
		return nil, nil
	}
	r, err := users.ParseRange(c.UsernsRange)
	return &r, err
}
