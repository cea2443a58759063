// Package registry speaks the OCI distribution protocol to registries and
// their mirrors: it finds out what a reference names and fetches blobs.
//
// Which host is asked, in which order, with which credentials and over which
// scheme is decided in one place (hosts.go):
//
//	mirrors of the registry, in the order of the configuration
//	   (one that failed lately goes to the end, for some minutes)
//	-> the registry itself
//
// Credentials that the user gave go to the registry itself and to the token
// server it names, never to a mirror, to a redirect's target or to a foreign
// URL. Every wait has a limit of its own (connecting, TLS, the header of an
// answer, silence in a body), so nothing hangs, and there is no limit on the
// whole, so slow lines finish.
package registry

// Docker's defaults for what Config leaves at 0.
const (
	DefaultMaxDownloads = 3
	DefaultMaxAttempts  = 5
)

// Config is the part of daemon.json that concerns registries.
type Config struct {
	// Mirrors of docker.io, as URLs, in the order they are asked.
	Mirrors []string
	// Insecure names registries that may be spoken to over plain HTTP or with
	// a certificate nobody vouches for: host, host:port or CIDR. Loopback
	// addresses always may.
	Insecure []string
	// MaxDownloads is how many layers the daemon downloads at once, over all
	// pulls; 0 is DefaultMaxDownloads.
	MaxDownloads int
	// MaxAttempts is how often a download is tried; 0 is DefaultMaxAttempts.
	MaxAttempts int
}
