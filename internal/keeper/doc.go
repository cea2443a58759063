// Package keeper is the protocol between the engine and hezi-keeper, and the
// engine's client of it. The server is in the subpackage server.
//
// One connection to EXECROOT/keeper/keeper.sock carries one request and its
// answer (Subscribe: one request and a row of events):
//
//	frame    = magic "HZK1" | length uint32 big endian | JSON
//	request  = {"Op": name, "Body": {...}}      descriptors ride on the header
//	response = {"Error": {...} or absent, "Body": {...}}
//
// Ending the connection cancels what it asked for, except a start. The package links
// no HTTP: a client's connection is handed over as a descriptor after the
// engine has written its headers.
package keeper
