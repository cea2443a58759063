// Package daemon is hezid's composition root: it reads the configuration,
// opens the listeners, wires the rooms together, and answers signals. It is
// the only package that imports implementations.
//
// The order of a start:
//
//	configuration -> one instance (pid file, locked) -> listeners (requests wait)
//	-> keeper -> store, images, network, volumes, engine -> restore -> ready
//
// SIGTERM and SIGINT end it: no new requests, those in flight may finish for
// shutdown-timeout, containers run on (with live-restore false they are
// stopped). SIGHUP reloads what can change without a restart.
package daemon
