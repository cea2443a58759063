package e2e

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
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// freePort is one of the host's that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificates writes ca.pem, and cert.pem with key.pem for a server and a client, into dir.
func certificates(t *testing.T, dir string) {
	t.Helper()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey := key()
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafKey := key()
	if der, err = x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey); err != nil {
		t.Fatal(err)
	}
	write("cert.pem", "CERTIFICATE", der)
	if der, err = x509.MarshalECPrivateKey(leafKey); err != nil {
		t.Fatal(err)
	}
	write("key.pem", "EC PRIVATE KEY", der)
}

// TestListeners: a socket for a group, TLS that asks for a certificate, and what
// SIGHUP changes; a second engine of the machine beside the tests' own.
func TestListeners(t *testing.T) {
	dir, addr := t.TempDir(), freePort(t)
	certificates(t, dir)
	e := harness.Start(t, "-H", "tcp://"+addr, "--group", "1234", "--tlsverify",
		"--tlscacert", dir+"/ca.pem", "--tlscert", dir+"/cert.pem", "--tlskey", dir+"/key.pem")
	st, err := os.Stat(strings.TrimPrefix(e.Host, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	if gid := st.Sys().(*syscall.Stat_t).Gid; st.Mode().Perm() != 0o660 || gid != 1234 {
		t.Errorf("the socket has the mode %v and the group %d", st.Mode(), gid)
	}
	for _, client := range []string{"hezi", "docker"} {
		ask := func(env ...string) string {
			program := client
			if client == "hezi" {
				program = filepath.Join(harness.Bin(), client)
			}
			cmd := exec.Command(program, "version", "--format", "{{.Server.Os}}")
			cmd.Env = append(append(os.Environ(), "DOCKER_HOST=tcp://"+addr, "HEZI_HOST=tcp://"+addr), env...)
			out, err := cmd.CombinedOutput()
			return fmt.Sprintf("%s %v", strings.TrimSpace(string(out)), err)
		}
		if got := ask("DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH="+dir); got != "linux <nil>" {
			t.Errorf("%s with a certificate: %s", client, got)
		}
		if got := ask("DOCKER_TLS_VERIFY="); strings.HasSuffix(got, "<nil>") {
			t.Errorf("%s without TLS: %s", client, got)
		}
	}
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(`{"labels": ["place=attic"], "mtu": 1400,}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "labels after SIGHUP", func() error {
		if got := e.Must(t, "info", "--format", "{{.Labels}}"); got != "[place=attic]" {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	if b, err := os.ReadFile(filepath.Join(e.Dir, "hezid.log")); err != nil || !strings.Contains(string(b), "take effect at the next start") || !strings.Contains(string(b), "keys=mtu") {
		t.Errorf("nothing says that mtu needs a restart: %v", err)
	}
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(`{"labels": ["place=cellar"], "registry-mirrors": ["ftp://nonsense"]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a wrong file is refused", func() error {
		if b, err := os.ReadFile(filepath.Join(e.Dir, "hezid.log")); err != nil || !strings.Contains(string(b), "the old one stays") {
			return fmt.Errorf("the log does not say so: %v", err)
		}
		return nil
	})
	if got := e.Must(t, "info", "--format", "{{.Labels}}"); got != "[place=attic]" {
		t.Errorf("a wrong file was taken in part: %s", got)
	}
}

// TestPassedSockets: fd:// serves what a service manager passes, a plain tcp
// host is warned of, and an engine that is stopped leaves nothing.
func TestPassedSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "hezi-fd-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/passed.sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(dir+"/daemon.json", []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	addr := freePort(t)
	cmd := exec.Command("sh", "-c", `export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=hezi.socket; exec "$@"`, "sh", filepath.Join(harness.Bin(), "hezid"),
		"--config-file", dir+"/daemon.json", "--data-root", dir+"/data", "--exec-root", dir+"/run", "-H", "fd://", "-H", addr)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &log, &log, []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bridge := ""
	for _, host := range []string{"unix://" + dir + "/passed.sock", "tcp://" + addr} {
		eventually(t, host, func() error {
			out, err := exec.Command(filepath.Join(harness.Bin(), "hezi"), "-H", host, "network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.name"}}`, "bridge").CombinedOutput()
			if bridge = strings.TrimSpace(string(out)); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if !strings.Contains(log.String(), "THE API IS OPEN WITHOUT TLS") {
		t.Errorf("no warning of plain tcp:\n%s", log.String())
	}
	if _, err := os.Lstat(dir + "/passed.sock"); err != nil {
		t.Errorf("the service manager's socket: %v", err)
	}
	eventually(t, "the bridge "+bridge+" goes", func() error {
		if _, err := net.InterfaceByName(bridge); err == nil {
			return fmt.Errorf("it is there")
		}
		return nothingOf(dir)
	})
}
