package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hezi/test/harness"
)

// lookups measures what a container waits for the address of another: over UDP,
// with few others on its network and with many.
func lookups(e *harness.Engine, rounds int) (err error) {
	if r := e.Hezi("network", "create", "bench-names"); r.Code != 0 {
		return errors.New(r.Err)
	}
	var all []string
	defer func() {
		if r := e.Hezi(append([]string{"rm", "-f"}, all...)...); r.Code != 0 {
			err = errors.Join(err, errors.New(r.Err))
		}
		if r := e.Hezi("network", "rm", "bench-names"); r.Code != 0 {
			err = errors.Join(err, errors.New(r.Err))
		}
	}()
	for _, n := range []int{2, 100} {
		for len(all) < n {
			name := fmt.Sprint("bench-name", len(all))
			if r := e.Hezi("run", "-d", "--name", name, "--network", "bench-names", "busybox", "sleep", "100000"); r.Code != 0 {
				return errors.New(r.Err)
			}
			all = append(all, name)
		}
		took, err := ask(strings.TrimSpace(e.Hezi("inspect", "-f", "{{.State.Pid}}", all[0]).Out), all[1], rounds*100)
		if err != nil {
			return err
		}
		slices.Sort(took)
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		fmt.Printf("%-34s %-22s %9.3f %9.3f %9.3f\n", fmt.Sprintf("look-up of a name, %d containers", n), "hezi",
			ms(took[0]), ms(took[len(took)/2]), ms(took[len(took)*9/10]))
	}
	return nil
}

// ask asks for a name again and again from the network of a process.
func ask(pid, name string, n int) ([]time.Duration, error) {
	type answer struct {
		took []time.Duration
		err  error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine, in the container's network
		took, err := askHere(pid, name, n)
		done <- answer{took, err}
	}()
	a := <-done
	return a.took, a.err
}

func askHere(pid, name string, n int) ([]time.Duration, error) {
	ns, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	c, err := net.Dial("udp", "127.0.0.11:53")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	msg, err := q.Pack()
	if err != nil {
		return nil, err
	}
	took, buf := make([]time.Duration, 0, n), make([]byte, 512)
	for range n {
		began := time.Now()
		if _, err := c.Write(msg); err != nil {
			return nil, err
		}
		if err := c.SetReadDeadline(began.Add(5 * time.Second)); err != nil {
			return nil, err
		}
		got, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
		var m dnsmessage.Message
		if err := m.Unpack(buf[:got]); err != nil || len(m.Answers) != 1 {
			return nil, fmt.Errorf("the answer for %s is %x (%v)", name, buf[:got], err)
		}
	}
	return took, nil
}
