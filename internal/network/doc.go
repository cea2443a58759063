// Package network gives containers their network namespaces, addresses and
// published ports, and tells about the predefined networks bridge, host and none.
//
// A place in the network, a slot, is ready before it is asked for:
//
//	made -> pooled -> joined (Join, or Adopt after a restart) -> releasing -> dying -> free
//
// releasing: its ports still stand in nft; all that wait go in one transaction.
// dying: the handle is gone and the kernel takes the namespace down when its last
// process ends; the address is given again once the veth is seen no more.
//
// What is kept where:
//
//	DATAROOT/network/state.json  ids of the networks, the bridge's subnet
//	EXECROOT/netns/ac110002      the handle of the slot with the address 172.17.0.2
//	EXECROOT/netns/none-...      a namespace with loopback alone
//
// After a restart New finds bridge, handles and nft table as they are and
// changes nothing of theirs; the engine calls Adopt for every container that
// still runs and then Sweep, which drops what nobody claimed.
package network
