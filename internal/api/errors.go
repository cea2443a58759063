package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
)

var errPageNotFound = errdefs.ErrNotFound.WithMessage("page not found")

// classes is the one map from an error's class to a status, in the order in
// which they are asked.
var classes = []struct {
	is     func(error) bool
	status int
}{
	{errdefs.IsNotFound, http.StatusNotFound},
	{errdefs.IsInvalidArgument, http.StatusBadRequest},
	{errdefs.IsOutOfRange, http.StatusBadRequest},
	{errdefs.IsConflict, http.StatusConflict},
	{errdefs.IsAlreadyExists, http.StatusConflict},
	{errdefs.IsFailedPrecondition, http.StatusConflict},
	{errdefs.IsNotModified, http.StatusNotModified},
	{errdefs.IsUnauthorized, http.StatusUnauthorized},
	{errdefs.IsPermissionDenied, http.StatusForbidden},
	{errdefs.IsUnavailable, http.StatusServiceUnavailable},
	{errdefs.IsNotImplemented, http.StatusNotImplemented},
	{isTooLarge, http.StatusRequestEntityTooLarge},
	{func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, http.StatusGatewayTimeout},
}

func isTooLarge(err error) bool {
	_, ok := errors.AsType[*http.MaxBytesError](err)
	return ok
}

// statusOf is the HTTP status of an error.
func statusOf(err error) int {
	for _, c := range classes {
		if c.is(err) {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

// writeError answers with the error's status and Docker's body, {"message": ...}.
func writeError(w http.ResponseWriter, err error) {
	status := statusOf(err)
	w.Header().Del("Content-Length")
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body, jerr := json.Marshal(common.ErrorResponse{Message: err.Error()})
	if jerr != nil {
		body = []byte(`{"message":"the error could not be written as JSON"}`)
	}
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// invalid is an error of the client's request.
func invalid(text string, err error) error {
	return &classed{text: text, cause: err, class: errdefs.ErrInvalidArgument}
}

// classed gives an error a class without changing its text more than a prefix.
type classed struct {
	text         string
	cause, class error
}

func (e *classed) Error() string {
	if e.cause == nil {
		return e.text
	}
	if e.cause == io.EOF {
		return e.text + ": it is empty"
	}
	return e.text + ": " + e.cause.Error()
}

func (e *classed) Unwrap() []error {
	if e.cause == nil {
		return []error{e.class}
	}
	return []error{e.class, e.cause}
}
