package ship

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// journald speaks the native protocol of systemd-journald, with Docker's fields.
type journald struct {
	fields  map[string]string
	ordinal uint64
	batch   []record
}

type record struct {
	text     string
	priority journal.Priority
	fields   map[string]string
}

func newJournald(c *Container) (sender, error) {
	if !journal.Enabled() {
		return nil, errors.New("journald is not enabled on this host")
	}
	tag, attrs, err := identity(c, fieldName)
	if err != nil {
		return nil, err
	}
	var epoch [32]byte
	rand.Read(epoch[:])
	j := &journald{fields: map[string]string{
		"CONTAINER_ID": c.Info.ID(), "CONTAINER_ID_FULL": c.Info.ContainerID, "CONTAINER_NAME": c.Info.Name(), "CONTAINER_TAG": tag,
		"IMAGE_NAME": c.Info.ContainerImageName, "SYSLOG_IDENTIFIER": tag, "CONTAINER_LOG_EPOCH": hex.EncodeToString(epoch[:]),
	}}
	maps.Copy(j.fields, attrs)
	return j, nil
}

// fieldName makes k what journald takes: letters, digits and underscores, none of
// these first (systemd.journal-fields(7)). "" where nothing is left.
func fieldName(k string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, k)
	return strings.TrimLeft(name, "_")
}

func (j *journald) add(m *message) error {
	r := record{text: string(m.text), priority: journal.PriInfo, fields: maps.Clone(j.fields)}
	if m.Stream == "stderr" {
		r.priority = journal.PriErr
	}
	r.fields["SYSLOG_TIMESTAMP"] = m.Time.UTC().Format(time.RFC3339Nano)
	if p := m.part; p != nil {
		r.fields["CONTAINER_PARTIAL_ID"], r.fields["CONTAINER_PARTIAL_ORDINAL"] = p.id, strconv.Itoa(p.ordinal)
		r.fields["CONTAINER_PARTIAL_LAST"] = strconv.FormatBool(p.last)
		if !p.last {
			r.fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
		}
	}
	j.ordinal++
	r.fields["CONTAINER_LOG_ORDINAL"] = strconv.FormatUint(j.ordinal, 10)
	j.batch = append(j.batch, r)
	return nil
}

// flush leaves a message behind that a journald which hangs does not take: the
// library waits for it without end.
func (j *journald) flush(ctx context.Context) error {
	batch := j.batch
	j.batch = nil
	sent := make(chan error, 1)
	go func() {
		for _, r := range batch {
			if ctx.Err() != nil {
				break
			}
			if err := journal.Send(r.text, r.priority, r.fields); err != nil {
				sent <- err
				return
			}
		}
		sent <- ctx.Err()
	}()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *journald) close() {}
