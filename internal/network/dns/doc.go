// Package dns answers what containers ask for names, at 127.0.0.11.
//
//	container ──▶ 127.0.0.11:53 ──table hezi-dns──▶ socket ──▶ Server ─┬─ names: what containers are called
//	                                                  ▲ copy           └─ upstream: all other names, at the host's servers
//	                                            the keeper's holder
//
// The sockets (room sockets) are made in a container's network namespace, once, and
// live as long as it does: the holder keeps copies. While no Server reads them,
// questions wait in them, and the next Server answers.
//
// One goroutine reads the sockets of all containers and answers for names of
// containers at once. What is forwarded, and a connection over TCP, has a goroutine,
// of which a container can have some and all of them a bounded number.
//
// Messages are built with golang.org/x/net/dns/dnsmessage, which Go's own resolver
// uses and which costs nothing at start; room wire looks at forwarded ones without
// unpacking them, so that what no library knows goes through as it came.
package dns
