// Command hezi-init is the first process of every container, until it becomes
// the container's program. The keeper carries it and runs it from memory.
package main

import "hezi/internal/box/initproc"

func main() { initproc.Main() }
