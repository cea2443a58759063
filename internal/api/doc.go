// Package api speaks the Docker Engine API, versions 1.24 to 1.56, to every
// client: it decodes a request, calls a room of the engine, and encodes the
// answer. It holds no policy.
//
// A request's way:
//
//	listener -> Server.ServeHTTP   version in the path, headers, debug log
//	         -> route table        routes.go: method, path, handler, first version
//	         -> handler            one file per resource, 25 lines at most
//	         -> Backend            the small interfaces of backend.go
//	         -> writeJSON          shapes of older versions: compat.go
//	         -> writeError         the one map from error class to status: errors.go
//
// Streams (attach, exec, followed logs, wait) leave HTTP: hijack.go answers
// with headers and hands the raw connection, with what net/http had already
// read of it, to the engine.
package api
