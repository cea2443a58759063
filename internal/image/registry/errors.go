package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Failure is one host's failure to do what it was asked.
type Failure struct {
	Host   string // with its scheme
	Status int    // of HTTP; 0 if there was no answer
	// Code and Message are the registry's own (OCI distribution spec, error
	// codes); empty if it gave none.
	Code, Message string
	// RetryAfter is how long the registry asks to wait; 0 if it does not say.
	RetryAfter time.Duration
	// Cause is why there was no answer, or a wrong one.
	Cause error
	class error
	text  string
	quiet bool   // the host said nothing for too long
	lied  bool   // it sent what it was not asked for
	also  string // what mirrors said before
}

// Error says what happened in one sentence, the registry's words first.
func (f *Failure) Error() string {
	switch {
	case f.text != "":
		return f.text + f.also
	case f.Status != 0:
		return f.words()
	}
	return fmt.Sprintf("%s: %v%s", f.Host, f.Cause, f.also)
}

// Unwrap gives the class and the cause.
func (f *Failure) Unwrap() []error {
	list := []error{f.class}
	if f.Cause != nil {
		list = append(list, f.Cause)
	}
	return list
}

// short is the failure in a few words, while it may yet pass.
func (f *Failure) short() string {
	if f.Status == 0 {
		return f.Error()
	}
	return fmt.Sprintf("%s answered %d %s", f.Host, f.Status, http.StatusText(f.Status))
}

// words are the registry's, as Docker prints them: "manifest unknown: …".
func (f *Failure) words() string {
	code := strings.ToLower(strings.ReplaceAll(f.Code, "_", " "))
	switch {
	case code == "" && f.Message != "":
		return f.Message
	case code == "":
		return fmt.Sprintf("received unexpected HTTP status from %s: %d %s", f.Host, f.Status, http.StatusText(f.Status))
	case f.Message == "":
		return code
	}
	return code + ": " + f.Message
}

// failing says whether the host, rather than the question, is at fault: then
// a mirror is passed over for some minutes.
func (f *Failure) failing() bool {
	return f.Status == 0 || f.lied || f.Status >= 500 || f.Status == http.StatusTooManyRequests || f.Status == http.StatusRequestTimeout
}

// again says whether the same question may be answered later.
func (f *Failure) again() bool {
	switch f.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case 0:
		return !f.lied && !permanent(f.Cause)
	}
	return false
}

// permanent says whether a connection failed in a way that waiting a second
// does not mend.
func permanent(err error) bool {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &name), errors.As(err, &verify), errors.As(err, &record):
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, errRedirect), errdefs.IsInvalidArgument(err):
		return true
	}
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// maxErrorBody bounds what is read of an answer that is an error.
const maxErrorBody = 16 << 10

// refused makes a Failure of an answer that is an error. It closes the body.
func refused(host string, resp *http.Response) *Failure {
	defer resp.Body.Close()
	f := &Failure{Host: host, Status: resp.StatusCode, class: classOf(resp.StatusCode), RetryAfter: retryAfter(resp.Header, time.Now())}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what is missing is only words
	var list struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // of token servers
	}
	if json.Unmarshal(body, &list) == nil {
		if len(list.Errors) > 0 {
			f.Code, f.Message = printable(list.Errors[0].Code), printable(list.Errors[0].Message)
		} else if list.Details != "" {
			f.Message = printable(list.Details)
		}
	}
	if f.Code == "" && f.Message == "" {
		switch f.Status {
		case http.StatusTooManyRequests:
			f.Code, f.Message = "TOOMANYREQUESTS", "too many requests"
		case http.StatusUnauthorized:
			f.Code, f.Message = "UNAUTHORIZED", "authentication required"
		case http.StatusForbidden:
			f.Code, f.Message = "DENIED", "requested access to the resource is denied"
		}
	}
	return f
}

// printable keeps a registry from writing on the user's terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return strings.TrimSpace(s)
}

func classOf(status int) error {
	switch {
	case status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case status == http.StatusNotFound:
		return errdefs.ErrNotFound
	case status == http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case status >= 500, status == http.StatusRequestTimeout:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}

// retryAfter reads the header (RFC 9110, 10.2.3): seconds or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// errRedirect is why a redirect was not followed.
var errRedirect = errors.New("redirect not followed")

// unreachable makes a Failure of a request without an answer.
func (c *Client) unreachable(ep *endpoint, set *settings, err error) *Failure {
	f := &Failure{Host: ep.base(), Cause: err, class: errdefs.ErrUnavailable}
	cause := plainCause(err)
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	switch {
	case errdefs.IsInvalidArgument(err): // our own: certificates of the host
		f.class = errdefs.ErrInvalidArgument
		f.text = fmt.Sprintf("registry %s: %s", ep.host, cause)
	case isTimeout(err):
		f.quiet = true
		f.text = fmt.Sprintf("registry %s did not answer within %s: check that the host is up, and firewalls, proxies (HTTPS_PROXY) and DNS between here and it", ep.base(), set.patience)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		f.text = fmt.Sprintf("registry %s: http: server gave HTTP response to HTTPS client: it speaks plain HTTP only; if you trust the network between, add %q to insecure-registries in daemon.json", ep.host, ep.host)
	case errors.As(err, &authority), errors.As(err, &verify):
		f.text = fmt.Sprintf("registry %s: tls: failed to verify certificate: %s: add the authority's certificate to the system's, or, if you trust the network between, add %q to insecure-registries in daemon.json", ep.host, cause, ep.host)
	case errors.As(err, &dns) && dns.IsNotFound:
		f.text = fmt.Sprintf("registry %s: no such host: check the spelling of the image's name, and DNS", ep.host)
	case errors.Is(err, syscall.ECONNREFUSED):
		f.text = fmt.Sprintf("registry %s cannot be reached: connection refused: check that it runs and listens on this port", ep.base())
	default:
		f.text = fmt.Sprintf("registry %s cannot be reached: %s", ep.base(), cause)
	}
	return f
}

// plainCause leaves out the layers of net/http ("Get \"https://…\": dial tcp").
func plainCause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Op + " " + fmt.Sprint(op.Addr) + ": " + op.Err.Error()
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, errSilent) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
