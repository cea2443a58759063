package format

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// RegistryReport is the engine's answer to `registry test`.
type RegistryReport struct {
	Registry, Image string
	Endpoints       []RegistryEndpoint
}

// RegistryEndpoint is one host in it.
type RegistryEndpoint struct {
	URL          string
	Mirror       bool
	Source       string
	Capabilities []string
	AskedLast    string
	Answer       string
	Serves       bool
	First        bool
	Detail       string
	Digest       string
	Login        string
	User         string
	Address      string
	Proxy        string
	Authorities  []string
	ClientCerts  []string
	Verified     bool
	Certificate  string
	RateLimit    string
	Took         time.Duration
}

// Serves says whether any host does.
func (r *RegistryReport) Serves() bool {
	for _, e := range r.Endpoints {
		if e.Serves {
			return true
		}
	}
	return false
}

// endpointHeaders are the columns of `registry test`.
var endpointHeaders = Headers{
	"Order": "ORDER", "URL": "ENDPOINT", "Role": "ROLE", "Source": "SOURCE", "Answer": "ANSWER", "Serves": "SERVES", "Time": "TIME", "Proxy": "PROXY",
	"Certificate": "CERTIFICATE", "Authorities": "AUTHORITIES", "ClientCerts": "CLIENT CERTIFICATES", "Capabilities": "CAPABILITIES",
	"Detail": "DETAIL", "Digest": "DIGEST", "Login": "LOGIN", "User": "USER", "Address": "ADDRESS", "RateLimit": "RATE LIMIT", "AskedLast": "ASKED LAST", "Verified": "VERIFIED",
}

const endpointTable = "table {{.Order}}\t{{.URL}}\t{{.Role}}\t{{.Answer}}\t{{.Time}}\t{{.Serves}}"

// Print writes a report: rows in the order in which the hosts are asked, and
// unless a format is given what there is to say of each.
func (r *RegistryReport) Print(out io.Writer, source string) error {
	p := Printer{Out: out, Source: source, Headers: endpointHeaders}
	if source == "" || source == "table" {
		p.Source = endpointTable
	}
	rows := make([]*Endpoint, len(r.Endpoints))
	for i, e := range r.Endpoints {
		rows[i] = &Endpoint{e, i + 1}
	}
	if err := Rows(p, rows); err != nil || source != "" {
		return err
	}
	var b bytes.Buffer
	for _, e := range rows {
		if lines := e.lines(); len(lines) > 0 {
			fmt.Fprintf(&b, "\n%d. %s\n   %s\n", e.Order(), e.URL(), strings.Join(lines, "\n   "))
		}
	}
	b.WriteString("\n" + r.conclusion() + "\n")
	_, err := b.WriteTo(out)
	return err
}

func (r *RegistryReport) conclusion() string {
	what := r.Registry
	if r.Image != "" {
		what = r.Image
	}
	for _, e := range r.Endpoints {
		if e.First {
			return e.URL + " serves " + what
		}
	}
	return "nobody serves " + what
}

// Endpoint is a row of `registry test`.
type Endpoint struct {
	e     RegistryEndpoint
	order int
}

// lines are what a row has no room for.
func (e *Endpoint) lines() (list []string) {
	some := func(label, text string) {
		if text != "" {
			list = append(list, label+text)
		}
	}
	some("", e.e.Detail)
	some("configured in ", e.Source())
	some("asked last ", e.e.AskedLast)
	if len(e.e.Capabilities) > 0 && e.Mirrored() && e.Capabilities() != "pull, resolve, referrers" {
		some("asked only to ", e.Capabilities())
	}
	login := e.e.Login
	if login != "" && e.e.User != "" {
		login += ", as " + e.e.User
	}
	some("wants a login: ", login)
	some("limit of pulls: ", e.e.RateLimit)
	some("proxy: ", e.e.Proxy)
	some("address: ", e.e.Address)
	certificate := e.e.Certificate
	if certificate != "" && !e.e.Verified {
		certificate += " (not verified)"
	}
	some("certificate: ", certificate)
	some("trusted authorities beside the system's: ", e.Authorities())
	some("shown certificates: ", e.ClientCerts())
	some("digest: ", e.e.Digest)
	return list
}

// MarshalJSON prints all fields.
func (e *Endpoint) MarshalJSON() ([]byte, error) { return Fields(e) }

// Order is when it is asked, from 1.
func (e *Endpoint) Order() int { return e.order }

// URL is the host.
func (e *Endpoint) URL() string { return e.e.URL }

// Role is mirror, or registry.
func (e *Endpoint) Role() string {
	if e.e.Mirror {
		return "mirror"
	}
	return "registry"
}

// Mirrored says whether it is a mirror.
func (e *Endpoint) Mirrored() bool { return e.e.Mirror }

// Source is where it is configured; "" for the registry itself.
func (e *Endpoint) Source() string {
	if e.e.Source == "the registry itself" {
		return ""
	}
	return e.e.Source
}

// Capabilities are what it is asked for.
func (e *Endpoint) Capabilities() string { return strings.Join(e.e.Capabilities, ", ") }

// AskedLast is why a mirror comes last for now.
func (e *Endpoint) AskedLast() string { return e.e.AskedLast }

// Answer is what it said, in a few words.
func (e *Endpoint) Answer() string { return e.e.Answer }

// Serves says whether it does, and whether it is the first that does.
func (e *Endpoint) Serves() string {
	switch {
	case e.e.First:
		return "yes, first"
	case e.e.Serves:
		return "yes"
	}
	return "no"
}

// Detail is what is wrong, in a sentence.
func (e *Endpoint) Detail() string { return e.e.Detail }

// Digest is what the image's tag names there.
func (e *Endpoint) Digest() string { return e.e.Digest }

// Login is how it wants to know who asks.
func (e *Endpoint) Login() string { return e.e.Login }

// User is who asked.
func (e *Endpoint) User() string { return e.e.User }

// Address is the host's that answered.
func (e *Endpoint) Address() string { return e.e.Address }

// Proxy is what was between.
func (e *Endpoint) Proxy() string { return e.e.Proxy }

// Authorities are files.
func (e *Endpoint) Authorities() string { return strings.Join(e.e.Authorities, ", ") }

// ClientCerts are files.
func (e *Endpoint) ClientCerts() string { return strings.Join(e.e.ClientCerts, ", ") }

// Verified says whether its certificate was.
func (e *Endpoint) Verified() bool { return e.e.Verified }

// Certificate is whose it is, and until when.
func (e *Endpoint) Certificate() string { return e.e.Certificate }

// RateLimit is what it says of how often it may be asked.
func (e *Endpoint) RateLimit() string { return e.e.RateLimit }

// Time is how long the answer took.
func (e *Endpoint) Time() string { return e.e.Took.Round(time.Millisecond).String() }
