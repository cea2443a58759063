package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// errRedirect is why a redirect was not followed.
var errRedirect = errors.New("redirect not followed")

// proxyRefused is a proxy that does not connect.
type proxyRefused struct{ proxy, status string }

func (p *proxyRefused) Error() string { return "the proxy " + p.proxy + " answered " + p.status }

// permanent says whether a connection failed in a way that waiting a second
// does not mend.
func permanent(err error) bool {
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var proxy *proxyRefused
	var dns *net.DNSError
	switch {
	case errors.As(err, &invalid), errors.As(err, &verify), errors.As(err, &record), errors.As(err, &proxy), alertOf(err) != "":
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, errRedirect), errors.Is(err, errWantsTLS), errdefs.IsInvalidArgument(err):
		return true
	}
	return err != nil && isPlain(err)
}

// alertOf is what the other side of TLS objects to; "" is nothing.
func alertOf(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return op.Err.Error()
	}
	return ""
}

// isPlain says whether a host answered HTTP to HTTPS.
func isPlain(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && string(record.RecordHeader[:4]) == "HTTP" || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// unreachable makes a Failure of a request without an answer.
func (c *Client) unreachable(ep *endpoint, set *settings, err error) *Failure {
	f := &Failure{Host: ep.base(), Cause: err, class: errdefs.ErrUnavailable}
	w := whoFailed(ep, err)
	if f.brief, f.text = w.tlsTrouble(err, time.Now()); f.text != "" {
		return f
	}
	var dns *net.DNSError
	var proxy *proxyRefused
	var quiet *silent
	var op *net.OpError
	cannot := w.base + " cannot be reached: "
	switch {
	case errdefs.IsInvalidArgument(err): // our own: certificates of the host
		f.class, f.local = errdefs.ErrInvalidArgument, true
		f.brief, f.text = "wrong configuration", w.host+": "+plainCause(err)
	case errors.As(err, &proxy):
		f.brief, f.text = "the proxy answered "+proxy.status, cannot+proxy.Error()+checkProxy
	case errors.As(err, &op) && op.Op == "proxyconnect":
		f.brief = "proxy: " + lastCause(err)
		f.text = fmt.Sprintf("%sthe proxy %s cannot be reached: %s%s", cannot, proxyOf(set, w.url), lastCause(err), checkProxy)
	case errors.As(err, &quiet):
		f.quiet = true
		f.brief, f.text = w.noAnswer(quiet.after)
	case errors.Is(err, errSlow):
		f.brief, f.text = "too slow", fmt.Sprintf("%s is too slow: %s", w.base, strings.TrimPrefix(lastText(err), errSlow.Error()+": "))
	case isTimeout(err) && !errors.As(err, &dns):
		f.quiet = true
		after := set.patience
		if errors.As(err, &op) && op.Op == "dial" || strings.Contains(err.Error(), "TLS handshake timeout") {
			after = ep.reach(set).dial
		}
		f.brief, f.text = w.noAnswer(after)
	case errors.As(err, &dns) && dns.IsNotFound:
		check := "check the spelling of the image's name, and DNS"
		if ep.host == set.hub {
			check = "check DNS (/etc/resolv.conf) and this machine's network"
		}
		f.brief, f.text = "no such host", w.host+": no such host: "+check
	case errors.As(err, &dns):
		f.brief = "DNS: " + dns.Err
		f.text = fmt.Sprintf("%s: its address cannot be looked up: %s: DNS does not answer: check /etc/resolv.conf and this machine's network", w.host, dns.Err)
	case errors.Is(err, errRedirect):
		f.brief, f.text = "redirected elsewhere", fmt.Sprintf("%s: %s: a proxy or a login page of the network (a captive portal) may answer in its place", w.base, lastText(err))
	case errors.Is(err, syscall.ECONNREFUSED):
		f.brief, f.text = "connection refused", cannot+"connection refused: check that it runs and listens on this port"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		f.brief, f.text = lastCause(err), cannot+lastCause(err)+": check this machine's network"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.brief, f.text = "connection closed", cannot+"it closed the connection without an answer"
	default:
		f.brief, f.text = lastCause(err), cannot+plainCause(err)
	}
	return f
}

const checkProxy = ": check the proxy (proxies in daemon.json, HTTPS_PROXY), or name the host in no-proxy"

// who is the host that an error is about: the endpoint, or where it led.
type who struct {
	base string // with scheme
	host string
	addr string // host, with port if one was written
	url  *url.URL
}

func whoFailed(ep *endpoint, err error) who {
	w := who{base: "registry " + ep.base(), host: "registry " + ep.host, addr: ep.host, url: &url.URL{Scheme: ep.scheme, Host: ep.host}}
	var at *url.Error
	if !errors.As(err, &at) {
		return w
	}
	u, perr := url.Parse(at.URL)
	if perr != nil || u.Host == "" {
		return w
	}
	w.url = u
	if u.Host != ep.host {
		w.addr = u.Host
		w.base = fmt.Sprintf("%s://%s, to which registry %s leads,", u.Scheme, u.Host, ep.host)
		w.host = fmt.Sprintf("%s, to which registry %s leads", u.Host, ep.host)
	}
	return w
}

func (w who) noAnswer(after time.Duration) (brief, text string) {
	return fmt.Sprintf("no answer within %s", after),
		fmt.Sprintf("%s did not answer within %s: check that the host is up, and firewalls, proxies (HTTPS_PROXY) and DNS between here and it", w.base, after)
}

// tlsTrouble explains what TLS, or its absence, has to do with an error; "" is
// nothing.
func (w who) tlsTrouble(err error, now time.Time) (brief, text string) {
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	alert := alertOf(err)
	trust := fmt.Sprintf(`if you trust the network between, add %q to insecure-registries in daemon.json`, w.addr)
	failed := w.host + ": tls: failed to verify certificate: "
	switch {
	case isPlain(err):
		return "HTTP answered to HTTPS", fmt.Sprintf("%s: http: server gave HTTP response to HTTPS client: it speaks plain HTTP only; %s", w.host, trust)
	case errors.Is(err, errWantsTLS), strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`):
		return "HTTPS was asked by HTTP", fmt.Sprintf("%s speaks HTTPS and was asked over plain HTTP: write https://%s where it is configured", w.host, w.addr)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		brief, text = expired(invalid.Cert, now)
		return brief, failed + text
	case errors.As(err, &name):
		return "certificate of another name", failed + fmt.Sprintf("%s: the name in the reference or in the mirror's URL must be one of the certificate's; %s", name, trust)
	case errors.As(err, &authority):
		return "certificate of an unknown authority", failed + fmt.Sprintf("%s: add the authority's certificate to the system's or as /etc/hezi/certs.d/%s/ca.crt; or, %s", plainCause(err), w.addr, trust)
	case errors.As(err, &verify):
		return "certificate refused", failed + fmt.Sprintf("%s; %s", plainCause(err), trust)
	case strings.Contains(alert, "certificate"):
		return "a client certificate is wanted", fmt.Sprintf("%s: %s: it wants a certificate of this machine that it knows: put it into /etc/hezi/certs.d/%s/ as client.cert, with client.key", w.host, alert, w.addr)
	case alert != "":
		return alert, fmt.Sprintf("%s: %s: the two ends have no version or cipher of TLS in common, or something between is in the way", w.host, alert)
	case errors.As(err, &record):
		return "neither HTTPS nor HTTP", fmt.Sprintf("%s: %s: what listens there speaks neither HTTPS nor HTTP: check the port", w.host, record.Msg)
	}
	return "", ""
}

// expired tells whose certificate is out of its time, and since when.
func expired(c *x509.Certificate, now time.Time) (brief, text string) {
	of := c.Subject.CommonName
	if of == "" && len(c.DNSNames) > 0 {
		of = c.DNSNames[0]
	}
	what := "the certificate"
	if c.IsCA {
		what = "the authority's certificate"
	}
	what += fmt.Sprintf(" of %q (issued by %q)", printable(of), printable(c.Issuer.CommonName))
	clock := "this machine's clock says " + now.UTC().Format(time.DateTime) + " UTC"
	if now.Before(c.NotBefore) {
		from := c.NotBefore.UTC().Format(time.DateOnly)
		return "certificate valid only from " + from + " on", fmt.Sprintf("%s is valid only from %s on, and %s: set the clock (timedatectl set-ntp true)", what, from, clock)
	}
	to := c.NotAfter.UTC().Format(time.DateOnly)
	text = fmt.Sprintf("%s expired on %s: it must be renewed there", what, to)
	if now.Before(built()) {
		return "certificate expired on " + to, text + "; but " + clock + ", which is before this program was made: set the clock (timedatectl set-ntp true)"
	}
	return "certificate expired on " + to, text + "; or the clock is wrong: " + clock
}

// built is when the program's source was committed; zero if it is not known.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value) // zero is not known
			return t
		}
	}
	return time.Time{}
}

// proxyOf is the proxy through which a URL is asked, without its password; ""
// is none.
func proxyOf(set *settings, u *url.URL) string {
	p, err := set.proxy(u)
	if err != nil || p == nil {
		return ""
	}
	return p.Redacted()
}

// plainCause leaves out the layers of net/http ("Get \"https://…\": dial tcp").
func plainCause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Op + " " + fmt.Sprint(op.Addr) + ": " + op.Err.Error()
	}
	return lastCause(err)
}

// lastCause is the innermost error's text.
func lastCause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// lastText is an error's text without that of net/http around it.
func lastText(err error) string {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, errSilent) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
