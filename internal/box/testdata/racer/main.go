// Command racer is the hostile program of the tests of package box: inside a
// box it hunts for the processes that enter it, before they become their
// program. It ends when /tmp/stop is there and says what it got.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

var held []int // descriptors of hezi-init's own file

func main() {
	marker := os.Args[1] // a file of the host, as its procfs shows it
	chmods, escapes := 0, 0
	fmt.Println("ready")
	next := os.Getpid() + 1
	for i := 0; ; i++ {
		if i%1000 == 0 {
			if _, err := os.Stat("/tmp/stop"); err == nil {
				break
			}
		}
		for pid := next; pid < next+24; pid++ {
			dir := "/proc/" + strconv.Itoa(pid)
			fd, err := syscall.Open(dir+"/exe", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			if link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); !strings.Contains(link, "hezi-init") {
				if !strings.Contains(link, "racer") { // it became its program
					next = pid + 1
				}
				syscall.Close(fd)
				continue
			}
			if syscall.Fchmod(fd, 0) == nil {
				chmods++
			}
			for n := 3; n < 24; n++ {
				if _, err := os.Stat(dir + "/fd/" + strconv.Itoa(n) + "/" + marker); err == nil {
					escapes++
				}
			}
			if len(held) < 100 {
				held = append(held, fd)
			} else {
				syscall.Close(fd)
			}
		}
	}
	fmt.Printf("held=%t chmods=%d writes=%d escapes=%d\n", len(held) > 0, chmods, overwrite(), escapes)
}

// overwrite counts the descriptors through which init could be written.
func overwrite() (n int) {
	for _, fd := range held {
		if w, err := syscall.Open("/proc/self/fd/"+strconv.Itoa(fd), syscall.O_WRONLY|syscall.O_TRUNC, 0); err == nil {
			syscall.Close(w)
			n++
		}
	}
	return n
}
