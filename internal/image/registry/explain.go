package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// explained is a Failure told as Docker tells it, in terms of the image.
type explained struct {
	text  string
	class error
	cause *Failure
}

func (e *explained) Error() string { return e.text + e.cause.also }

// Unwrap hides the class of the cause: a repository that may not be seen is
// not found, though the registry said "unauthorized".
func (e *explained) Unwrap() error { return e.class }

// As gives the cause to who asks for it.
func (e *explained) As(target any) bool {
	if f, ok := target.(**Failure); ok {
		*f = e.cause
		return true
	}
	return false
}

// explain tells why ref could not be resolved.
func (r *Repository) explain(ref reference.Named, err error) error {
	var f *Failure
	switch {
	case !errors.As(err, &f):
		return err
	case f.Status == 0:
		return r.unreached(f, err)
	case f.page: // the status is a web server's
	case f.Code == "NAME_UNKNOWN" && f.Status == http.StatusNotFound:
		return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf(
			"repository %s not found: %s: check the name", reference.FamiliarName(ref), f.words())}
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden, f.Code == "DENIED", f.Code == "UNAUTHORIZED", f.Code == "NAME_UNKNOWN":
		return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf(
			"pull access denied for %s, repository does not exist or may require 'docker login': %s", reference.FamiliarName(ref), f.words())}
	case f.Status == http.StatusNotFound:
		words := f.words()
		if f.Code == "" {
			words = "manifest unknown: manifest unknown"
		}
		return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf("manifest for %s not found: %s: check the name and the tag", reference.FamiliarString(ref), words)}
	}
	return r.explainStatus(reference.FamiliarString(ref), f)
}

// explainBlob tells why a blob could not be fetched.
func (r *Repository) explainBlob(d ocispec.Descriptor, err error) error {
	var f *Failure
	switch {
	case !errors.As(err, &f):
		return err
	case f.Status == 0:
		return r.unreached(f, err)
	}
	if f.Status == http.StatusNotFound && !f.page {
		return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf(
			"blob %s of %s not found on %s: %s: the image is not whole there; push it again", d.Digest, reference.FamiliarName(r.name), f.Host, f.words())}
	}
	return r.explainStatus(reference.FamiliarName(r.name), f)
}

// explainForeign tells why a layer that is not in the registry did not come
// from the addresses that the image names either.
func (r *Repository) explainForeign(d ocispec.Descriptor, err error, tried []string) error {
	var f *Failure
	if !errors.As(err, &f) {
		return err
	}
	const most = 3
	if more := len(tried) - most; more > 0 {
		tried = append(tried[:most:most], fmt.Sprintf("and %d more", more))
	}
	return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf(
		"layer %s of %s is not on %s, and not where the image says that it is: %s", d.Digest, reference.FamiliarName(r.name), f.Host, strings.Join(tried, "; "))}
}

func (r *Repository) explainStatus(what string, f *Failure) error {
	switch {
	case f.Status == http.StatusTooManyRequests:
		limit, when := "", "wait some minutes"
		if f.Limit != nil {
			limit = " (" + f.Limit.String() + ")"
			if f.Limit.Window > 0 {
				when = fmt.Sprintf("wait, at the most %s", f.Limit.Window)
			}
		}
		if f.RetryAfter > 0 {
			when = fmt.Sprintf("wait %s (until %s)", f.RetryAfter.Round(time.Second), time.Now().Add(f.RetryAfter).Format(time.DateTime))
		}
		return &explained{class: errdefs.ErrResourceExhausted, cause: f, text: fmt.Sprintf(
			"%s: %s limits how often images are pulled%s: %s, log in (docker login) for a higher limit, or %s", f.words(), f.Host, limit, when, mirrorHint(r))}
	case f.Status >= 500:
		words := ""
		if f.Code != "" || f.Message != "" {
			words = " (" + f.words() + ")"
		}
		return &explained{class: errdefs.ErrUnavailable, cause: f, text: fmt.Sprintf(
			"received unexpected HTTP status: %d %s from %s%s: %s could not be pulled; the registry itself fails: try again later", f.Status, http.StatusText(f.Status), f.Host, words, what)}
	}
	return &explained{class: f.class, cause: f, text: fmt.Sprintf("%s: pull %s: %s", f.Host, what, f.words())}
}

// unreached adds to a Failure of Docker Hub what helps where it is out of
// reach.
func (r *Repository) unreached(f *Failure, err error) error {
	if r.name == nil || reference.Domain(r.name) != hubName || f.lied && !f.page || f.local {
		return err
	}
	told := *f
	told.also += "; where Docker Hub is out of reach, " + mirrorHint(r)
	return &told
}

// mirrorHint says how to set a mirror.
func mirrorHint(r *Repository) string {
	mirrors := `["https://MIRROR"]`
	if domain := reference.Domain(r.name); domain != hubName {
		mirrors = fmt.Sprintf(`{%q: %s}`, domain, mirrors)
	}
	return fmt.Sprintf(`name a mirror that you can reach in %s: "registry-mirrors": %s, and reload hezid (systemctl reload hezi, or SIGHUP); hezi registry test shows what each answers`, r.gen.file, mirrors)
}
