package registry

import (
	"errors"
	"fmt"
	"net/http"
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
	if !errors.As(err, &f) || f.Status == 0 {
		return err
	}
	switch {
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
	if !errors.As(err, &f) || f.Status == 0 {
		return err
	}
	if f.Status == http.StatusNotFound {
		return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf(
			"blob %s of %s not found on %s: %s: the image is not whole there; push it again", d.Digest, reference.FamiliarName(r.name), f.Host, f.words())}
	}
	return r.explainStatus(reference.FamiliarName(r.name), f)
}

func (r *Repository) explainStatus(what string, f *Failure) error {
	switch {
	case f.Status == http.StatusTooManyRequests:
		when := "wait some minutes"
		if f.RetryAfter > 0 {
			when = "wait " + f.RetryAfter.Round(time.Second).String()
		}
		return &explained{class: errdefs.ErrResourceExhausted, cause: f, text: fmt.Sprintf(
			"%s: %s limits how often images are pulled: %s, log in (docker login) for a higher limit, or name a mirror in registry-mirrors of daemon.json", f.words(), f.Host, when)}
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
