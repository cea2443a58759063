package api

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"hezi/internal/version"
)

// apiVersion is 1.minor of the Engine API: the minor number.
type apiVersion int

var (
	newest = mustVersion(version.API)
	oldest = mustVersion(version.MinAPI)
)

func (v apiVersion) String() string { return "1." + strconv.Itoa(int(v)) }

func mustVersion(s string) apiVersion {
	v, ok := parseVersion(s)
	if !ok {
		panic("not an API version: " + s)
	}
	return v
}

func parseVersion(s string) (apiVersion, bool) {
	minor, ok := strings.CutPrefix(s, "1.")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(minor, 10, 16)
	return apiVersion(n), err == nil
}

// splitVersion takes /vX.Y off a path. A path without it asks for the newest.
func splitVersion(path string) (string, apiVersion, error) {
	rest, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return path, newest, nil
	}
	number, tail, _ := strings.Cut(rest, "/")
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return path, newest, nil // "/volumes" and the like
	}
	v, ok := parseVersion(number)
	switch {
	case !ok && strings.HasPrefix(number, "0"):
		return "", 0, tooOld(number)
	case !ok:
		return "", 0, tooNew(number)
	case v > newest:
		return "", 0, tooNew(number)
	case v < oldest:
		return "", 0, tooOld(number)
	}
	return "/" + tail, v, nil
}

// The texts are Docker's: clients match them.
func tooNew(asked string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
		"client version %s is too new. Maximum supported API version is %s", asked, version.API))
}

func tooOld(asked string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
		"client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", asked, version.MinAPI))
}
