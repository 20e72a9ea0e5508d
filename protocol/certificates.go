package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// authorityLife is how long an authority's certificate is valid. A new authority
	// means new files on every machine.
	authorityLife = 10 * 365 * 24 * time.Hour
	// serverLife is how long a server's is. One that has less than a third of it left
	// is renewed by the next Init.
	serverLife = 2 * 365 * 24 * time.Hour
)

// authority signs servers' certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// openAuthority reads ca.pem and ca.key in a folder, or makes them.
func openAuthority(dir, name string, now time.Time) (*authority, error) {
	a := &authority{}
	certPath := filepath.Join(dir, "ca.pem")
	key, err := openPrivateKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}
	a.key = key
	if a.cert, a.pem, err = readCertificate(certPath); errors.Is(err, os.ErrNotExist) {
		return a, a.begin(certPath, name, now)
	}
	switch {
	case err != nil:
		return nil, err
	case !key.PublicKey.Equal(a.cert.PublicKey):
		return nil, fmt.Errorf("%s and ca.key do not belong together", certPath)
	case now.After(a.cert.NotAfter):
		return nil, fmt.Errorf("%s was valid until %s: remove it, and every server and role needs new files", certPath, a.cert.NotAfter.Format(time.DateOnly))
	}
	return a, nil
}

// begin signs the authority's own certificate.
func (a *authority) begin(path, name string, now time.Time) error {
	a.cert = &x509.Certificate{
		Subject:   pkix.Name{CommonName: "NATS cluster " + name},
		NotBefore: now.Add(-clockLeeway), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	var err error
	a.pem, err = a.sign(a.cert, a.key)
	if err != nil {
		return err
	}
	return writeIfChanged(path, a.pem)
}

// clockLeeway is how far behind a machine's clock may be.
const clockLeeway = time.Hour

// certify makes server.pem and server.key in a folder, or keeps them while they do,
// and says which. The certificate serves clients and both ends of routes.
func (a *authority) certify(dir, host string, now time.Time) (outcome string, err error) {
	path := filepath.Join(dir, "server.pem")
	key, err := openPrivateKey(filepath.Join(dir, "server.key"))
	if err != nil {
		return "", err
	}
	outcome = "new"
	switch have, _, err := readCertificate(path); {
	case err == nil && a.signed(have, key, host) && have.NotAfter.Sub(now) > serverLife/3:
		return "kept", nil
	case err == nil:
		outcome = "renewed"
	case !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	cert := &x509.Certificate{
		Subject:   pkix.Name{CommonName: host},
		NotBefore: now.Add(-clockLeeway), NotAfter: now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if cert.NotAfter.After(a.cert.NotAfter) {
		cert.NotAfter = a.cert.NotAfter
	}
	if ip := net.ParseIP(host); ip != nil {
		cert.IPAddresses = []net.IP{ip}
	} else {
		cert.DNSNames = []string{host}
	}
	text, err := a.sign(cert, key)
	if err != nil {
		return "", err
	}
	return outcome, writeIfChanged(path, text)
}

// signed reports whether a certificate is this authority's, for this key and host.
func (a *authority) signed(cert *x509.Certificate, key *ecdsa.PrivateKey, host string) bool {
	return cert.CheckSignatureFrom(a.cert) == nil && key.PublicKey.Equal(cert.PublicKey) && cert.VerifyHostname(host) == nil
}

func (a *authority) sign(cert *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	if cert == a.cert {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func readCertificate(path string) (*x509.Certificate, []byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%s holds no certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, text, nil
}

// openPrivateKey reads an ECDSA P-256 key, or makes one that only its owner may read.
func openPrivateKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return createPrivateKey(path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T: an ECDSA key is needed", path, parsed)
	}
	return key, nil
}

func createPrivateKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeIfChanged(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
