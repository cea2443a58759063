// Package relay lets published ports answer at the host's ::1, from where the kernel
// leads nothing to a container: one process for all ports of an engine takes what comes
// there and hands it on to the containers' addresses, connections by splice(2), datagrams
// in flows. It is started with the first such port and ends when there is none.
//
//	hezid  Client ──sockets and where they lead──▶  hezi-keeper relay  Server
//
// The sockets are the ones that hold the ports (network/ports), which the keeper and its
// holder have copies of. So a port stays taken whatever dies, connections that are open
// live as long as the relay, and a relay that is killed is followed by one that goes on
// with the same sockets: who connects meanwhile waits in them. hezid may be away.
//
//	EXECROOT/relay/relay.sock  where Client reaches Server: messages of package-local JSON, one a packet
//	EXECROOT/relay/relay.lock  held by the one Server
//	EXECROOT/relay/relay.log   what it says
//
// It knows nothing of containers and networks (docs/adr/0008-relay.md).
package relay
