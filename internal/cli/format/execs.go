package format

import (
	"strconv"
	"strings"
	"time"
)

// ExecHeaders are the columns of `execs ls`.
var ExecHeaders = Headers{
	"ID": "EXEC ID", "Container": "CONTAINER", "ContainerID": "CONTAINER ID", "Command": "COMMAND", "User": "USER", "CreatedAt": "CREATED AT",
	"RunningFor": "CREATED", "Status": "STATUS", "PID": "PID", "Processes": "PROCESSES",
}

// ExecSource completes the format of `execs ls`.
func ExecSource(source string, quiet bool) string {
	switch {
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.ID}}"
	}
	return "table {{.ID}}\t{{.Container}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Processes}}"
}

// ExecSummary is what the engine tells of an exec.
type ExecSummary struct {
	ID, ContainerID, ContainerName string
	Command                        []string
	User                           string
	Created                        time.Time
	Running                        bool
	ExitCode                       *int
	Pid                            int
	Processes                      []int
}

// Exec is a row of `execs ls`.
type Exec struct {
	e     ExecSummary
	trunc bool
	now   time.Time
}

// Execs makes the rows of `execs ls`.
func Execs(list []ExecSummary, trunc bool, now time.Time) []*Exec {
	rows := make([]*Exec, len(list))
	for i, e := range list {
		rows[i] = &Exec{e, trunc, now}
	}
	return rows
}

// MarshalJSON prints all fields.
func (x *Exec) MarshalJSON() ([]byte, error) { return Fields(x) }

// ID is the identifier.
func (x *Exec) ID() string { return shownID(x.e.ID, x.trunc) }

// Container is the container's name.
func (x *Exec) Container() string { return x.e.ContainerName }

// ContainerID is the container's identifier.
func (x *Exec) ContainerID() string { return shownID(x.e.ContainerID, x.trunc) }

// Command is the command line, in quotes.
func (x *Exec) Command() string {
	line := strings.Join(x.e.Command, " ")
	if x.trunc {
		line = Ellipsis(line, 20)
	}
	return strconv.Quote(line)
}

// User is who runs it; nothing for the container's own user.
func (x *Exec) User() string { return x.e.User }

// CreatedAt is when it was made.
func (x *Exec) CreatedAt() string { return time.Unix(x.e.Created.Unix(), 0).String() }

// RunningFor is how long ago that was.
func (x *Exec) RunningFor() string { return Ago(x.now, x.e.Created.Unix()) }

// Status says whether its first process runs, or how it ended.
func (x *Exec) Status() string {
	switch {
	case x.e.Running:
		return "Running"
	case x.e.ExitCode != nil:
		return "Exited (" + strconv.Itoa(*x.e.ExitCode) + ")"
	}
	return "Created"
}

// PID is its first process on the host; 0 when that has ended.
func (x *Exec) PID() string { return strconv.Itoa(x.e.Pid) }

// Processes is how many processes it has.
func (x *Exec) Processes() string { return strconv.Itoa(len(x.e.Processes)) }
