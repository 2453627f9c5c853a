package testservice

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"orrery.example/orrery/internal/fault"
)

// Vault is a server of secrets that speaks the HTTP API of Vault, with TLS, a mount kv/ of version 1, a mount secret/ of version 2 where the
// program knows that, and AppRole.
type Vault struct {
	URL     string
	CA      string // file with the authority of its certificate
	Root    string // a token that may do everything
	Version int    // of the engine at secret/

	dir     string
	program string
	unseal  string
	port    *Port
	client  *http.Client
	process *process
}

// StartVault starts OpenBao (bao) or RustyVault (rvault), whichever is in PATH: nothing here builds either. Error: fault.NotFound without
// both.
func StartVault() (*Vault, error) {
	v := &Vault{}
	var err error
	for _, name := range []string{"bao", "rvault"} {
		if v.program, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fault.New(fault.NotFound, "neither OpenBao (bao) nor RustyVault (rvault) is installed").WithHint("cargo install rusty_vault")
	}
	if v.dir, err = folder(nil); err != nil {
		return nil, err
	}
	if err := v.certify(); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	if v.port, err = HoldPort(); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	v.URL = "https://" + v.port.Address()
	if v.process, err = v.run(); err == nil {
		err = v.prepare()
	}
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// certify makes a certificate for the loopback that is its own authority.
func (v *Vault) certify() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vault"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	v.CA = filepath.Join(v.dir, "server.crt")
	pool := x509.NewCertPool()
	if cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	pool.AddCert(cert)
	v.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	return errors.Join(
		os.WriteFile(v.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(v.dir, "server.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600),
	)
}

func (v *Vault) run() (*process, error) {
	address := v.port.Address()
	config := fmt.Sprintf("storage \"file\" {\n  path = %q\n}\nlistener \"tcp\" {\n  address = %q\n  tls_disable = \"false\"\n  tls_cert_file = %q\n  tls_key_file = %q\n  tls_disable_client_certs = \"true\"\n}\napi_addr = %q\n",
		filepath.Join(v.dir, "data"), address, v.CA, filepath.Join(v.dir, "server.key"), v.URL)
	file := filepath.Join(v.dir, "server.hcl")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return start(command(nil, v.dir, v.program, "server", "--config="+file), answers(address))
}

// prepare initialises and unseals a new server and mounts what tests use.
func (v *Vault) prepare() error {
	var made struct {
		Keys      []string `json:"keys"`
		RootToken string   `json:"root_token"`
	}
	if err := v.ask(http.MethodPut, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &made); err != nil {
		return err
	}
	if len(made.Keys) != 1 {
		return fmt.Errorf("%s made no key", v.program)
	}
	v.Root, v.unseal = made.RootToken, made.Keys[0]
	if err := v.Unseal(); err != nil {
		return err
	}
	if err := v.ask(http.MethodPost, "sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]string{"version": "1"}}, nil); err != nil {
		return err
	}
	var mounts map[string]json.RawMessage
	if err := v.ask(http.MethodGet, "sys/mounts", nil, &mounts); err != nil {
		return err
	}
	if mounts["secret/"] == nil {
		if err := v.ask(http.MethodPost, "sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}}, nil); err != nil {
			return err
		}
	}
	v.Version = 1
	if filepath.Base(v.program) == "bao" {
		v.Version = 2
	}
	return v.ask(http.MethodPost, "sys/auth/approle", map[string]any{"type": "approle"}, nil)
}

// Write sends a document as the holder of the root token.
func (v *Vault) Write(path string, doc map[string]any) error {
	return v.ask(http.MethodPost, path, doc, nil)
}

// Role makes an application's role that may read secrets and whose tokens last for some seconds, and returns its id and a secret id that is good for a number of logins.
func (v *Vault) Role(name string, seconds, logins int) (id, secret string, err error) {
	policy := map[string]any{"policy": "path \"kv/*\" {\n  capabilities = [\"read\"]\n}\npath \"secret/*\" {\n  capabilities = [\"read\"]\n}\n"}
	if err := v.ask(http.MethodPost, "sys/policy/reader", policy, nil); err != nil && v.Version == 2 { // RustyVault has no policies yet
		return "", "", err
	}
	doc := map[string]any{"token_policies": "reader", "token_ttl": seconds, "token_max_ttl": seconds * 10, "secret_id_num_uses": logins}
	if err := v.ask(http.MethodPost, "auth/approle/role/"+name, doc, nil); err != nil {
		return "", "", err
	}
	var r struct {
		Data struct {
			RoleID   string `json:"role_id"`
			SecretID string `json:"secret_id"`
		}
	}
	if err := v.ask(http.MethodGet, "auth/approle/role/"+name+"/role-id", nil, &r); err != nil {
		return "", "", err
	}
	id = r.Data.RoleID
	err = v.ask(http.MethodPost, "auth/approle/role/"+name+"/secret-id", map[string]any{}, &r)
	return id, r.Data.SecretID, err
}

// Seal makes the server forget its keys, until Unseal.
func (v *Vault) Seal() error { return v.ask(http.MethodPut, "sys/seal", map[string]any{}, nil) }

// Unseal gives the server its keys back.
func (v *Vault) Unseal() error {
	return v.ask(http.MethodPut, "sys/unseal", map[string]any{"key": v.unseal}, nil)
}

// Stop makes the server unreachable.
func (v *Vault) Stop() {
	if v.process != nil {
		v.process.kill(syscall.SIGKILL)
		v.process = nil
	}
}

// Close stops the server and removes its files.
func (v *Vault) Close() error {
	v.Stop()
	return errors.Join(v.port.Release(), os.RemoveAll(v.dir))
}

func (v *Vault) ask(method, path string, doc map[string]any, into any) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if doc == nil {
		raw = nil
	}
	req, err := http.NewRequest(method, v.URL+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", v.Root)
	resp, err := v.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, body)
	}
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(body, into)
}
