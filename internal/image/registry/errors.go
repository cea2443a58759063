package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

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
	// Limit is what it says of its limits; nil if nothing.
	Limit *RateLimit
	// Cause is why there was no answer, or a wrong one.
	Cause error
	class error
	text  string
	brief string // the same in a few words, for lists
	quiet bool   // the host said nothing for too long
	lied  bool   // it sent what it was not asked for
	page  bool   // it sent a web page
	local bool   // this machine's configuration is at fault
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
	case f.page:
		return fmt.Sprintf("%d %s from %s: %s: this may be no registry, or a proxy or a login page of the network answers in its place", f.Status, http.StatusText(f.Status), f.Host, f.Message)
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
	return f.Status == 0 || f.lied || f.page || f.Status >= 500 || f.Status == http.StatusTooManyRequests || f.Status == http.StatusRequestTimeout
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

// maxErrorBody bounds what is read of an answer that is an error.
const maxErrorBody = 16 << 10

// refused makes a Failure of an answer that is an error. It closes the body.
func refused(host string, resp *http.Response) *Failure {
	defer resp.Body.Close()
	f := &Failure{Host: host, Status: resp.StatusCode, class: classOf(resp.StatusCode), RetryAfter: retryAfter(resp.Header, time.Now()), Limit: rateLimit(resp.Header, time.Now())}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what is missing is only words
	f.Code, f.Message = errorWords(body)
	if isPage(resp.Header, body) {
		f.page = true
		f.Message = "it sent a web page" + title(body)
	}
	if f.Status == http.StatusProxyAuthRequired {
		f.Message = "the proxy wants a user name and a password: write them as http://USER:PASSWORD@HOST:PORT in proxies of daemon.json, or in HTTPS_PROXY"
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

// errorWords reads the first error of a body (OCI distribution spec, error
// codes), or what token servers send.
func errorWords(body []byte) (code, message string) {
	var list struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // of token servers
	}
	switch {
	case json.Unmarshal(body, &list) != nil:
		return "", ""
	case len(list.Errors) > 0:
		return printable(list.Errors[0].Code), printable(list.Errors[0].Message)
	}
	return "", printable(list.Details)
}

// printable keeps a registry from writing on the user's terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
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
