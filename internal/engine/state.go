package engine

import (
	"fmt"
	"slices"

	"github.com/moby/moby/api/types/container"
)

// State is the one value that says where a container is in its life.
type State = container.ContainerState

// TransitionError is a change of state that does not exist.
type TransitionError struct{ From, To State }

func (e *TransitionError) Error() string {
	return fmt.Sprintf("a container that is %s cannot become %s", e.From, e.To)
}

// Conflict classes the error for the API.
func (e *TransitionError) Conflict() {}

// transition checks one step of the life of a container.
func transition(from, to State) error {
	var next []State
	switch from {
	case container.StateCreated:
		next = []State{container.StateRunning, container.StateRemoving}
	case container.StateExited:
		next = []State{container.StateRunning, container.StateRestarting, container.StateRemoving}
	case container.StateRunning:
		next = []State{container.StatePaused, container.StateRestarting, container.StateExited}
	case container.StatePaused:
		next = []State{container.StateRunning, container.StateRestarting, container.StateExited}
	case container.StateRestarting:
		next = []State{container.StateRunning, container.StateExited}
	}
	if !slices.Contains(next, to) {
		return &TransitionError{from, to}
	}
	return nil
}
