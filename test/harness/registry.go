package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// RegistryOptions are what Debian's docker-registry can do beside serving.
type RegistryOptions struct {
	Address string // where to listen; "" is 127.0.0.1
	// Login asks for the user me with the password right.
	Login bool
	// TLS serves HTTPS; the certificate is its own authority, in the file
	// that Authority names after the start.
	TLS       bool
	Authority string
	// MirrorOf makes it a cache of the registry with this URL.
	MirrorOf string
	// Schema1 lets it take images as of before 2016.
	Schema1 bool
}

// loginLine is an htpasswd of bcrypt: docker-registry takes no other.
const loginLine = "me:$2b$05$tbqnXmfl6QATuLAMDxPtIuZx1520/UiwfHA.MHo4Ge1BQNGIPMJ0i\n"

// RegistryWith runs Debian's docker-registry and returns its address.
func RegistryWith(t testing.TB, o *RegistryOptions) string {
	t.Helper()
	addr, stop, err := ServeRegistry(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return addr
}

// ServeRegistry is RegistryWith, for programs that are no tests. The registry
// keeps its data in dir.
func ServeRegistry(dir string, o *RegistryOptions) (addr string, stop func(), err error) {
	host := o.Address
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	l.Close()
	cfg := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\n  delete:\n    enabled: true\nhttp:\n  addr: %q\n", filepath.Join(dir, "data"), addr)
	files := map[string][]byte{}
	if o.TLS {
		cert, key, err := selfSigned(host)
		if err != nil {
			return "", nil, err
		}
		files["tls.crt"], files["tls.key"] = cert, key
		o.Authority = filepath.Join(dir, "tls.crt")
		cfg += fmt.Sprintf("  tls:\n    certificate: %s\n    key: %s\n", o.Authority, filepath.Join(dir, "tls.key"))
	}
	if o.Login {
		files["htpasswd"] = []byte(loginLine)
		cfg += fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n", filepath.Join(dir, "htpasswd"))
	}
	if o.Schema1 {
		cfg += "compatibility:\n  schema1:\n    enabled: true\n"
	}
	if o.MirrorOf != "" {
		cfg += fmt.Sprintf("proxy:\n  remoteurl: %s\n", o.MirrorOf)
	}
	files["config.yml"] = []byte(cfg)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", nil, err
		}
	}
	cmd := exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("%w: install Debian's docker-registry", err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr, stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("docker-registry does not answer on %s", addr)
}

// selfSigned makes a certificate for an address, in PEM.
func selfSigned(host string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Registry"}, IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), nil
}

// ExtraAddress gives the loopback interface an address that is not loopback's,
// where nothing is insecure by itself.
func ExtraAddress(t testing.TB, ip string) {
	t.Helper()
	if out, err := exec.Command("ip", "addr", "add", ip+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "addr", "del", ip+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}
