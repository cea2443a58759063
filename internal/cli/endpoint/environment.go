package endpoint

import (
	"fmt"
	"path/filepath"

	"github.com/docker/cli/cli/config"
)

// Environment is how another client of Docker's API is told of an engine by
// its environment: values by name, "" for what must not be set. That
// environment has one folder for the certificates, with Docker's names in it:
// others are an error.
func (f Flags) Environment(ep *Endpoint) (map[string]string, error) {
	set := map[string]string{"DOCKER_CONFIG": config.Dir(), "DOCKER_HOST": ep.Host, "DOCKER_CONTEXT": "", "DOCKER_TLS": "", "DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": ""}
	if ep.Context != DefaultContext {
		set["DOCKER_HOST"], set["DOCKER_CONTEXT"] = "", ep.Context
		return set, nil
	}
	if !f.TLS && !f.TLSVerify || isSocket(ep.Host) {
		return set, nil
	}
	dir := filepath.Dir(f.CACert)
	for file, name := range map[string]string{f.CACert: "ca.pem", f.Cert: "cert.pem", f.Key: "key.pem"} {
		if file != "" && file != filepath.Join(dir, name) {
			return nil, fmt.Errorf("only hezi can use the certificate file %s: for other programs name a folder with ca.pem, cert.pem and key.pem by DOCKER_CERT_PATH, or make a context (hezi context create)", file)
		}
	}
	set["DOCKER_CERT_PATH"] = dir
	if f.TLSVerify {
		set["DOCKER_TLS_VERIFY"] = "1"
	} else {
		set["DOCKER_TLS"] = "1"
	}
	return set, nil
}
