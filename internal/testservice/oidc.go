package testservice

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"orrery.example/orrery/internal/fault"
)

// provider is the program of the OpenID provider: panva's oidc-provider, certified by the OpenID Foundation, with the versions of
// everything it needs fixed by a lock file.
//
//go:embed provider
var provider embed.FS

// installTimeout allows for a slow registry; what is installed is kept in the user's cache.
const installTimeout = 5 * time.Minute

// ProviderOptions say what an OpenID provider knows.
type ProviderOptions struct {
	Users   map[string]map[string]any // claims by user; the name of a user is his subject
	Clients []string                  // ids of public clients with a loopback redirect
	Life    time.Duration             // of tokens, an hour without
}

// Provider is an OpenID provider.
type Provider struct {
	Issuer string

	options ProviderOptions
	keys    []signingKey // the first signs
	port    *Port
	path    string
	process *process
}

// signingKey is a private key as a JWK.
type signingKey struct {
	Type  string `json:"kty"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	Y     string `json:"y"`
	D     string `json:"d"`
	ID    string `json:"kid"`
	Use   string `json:"use"`
	Alg   string `json:"alg"`
}

func newSigningKey() (signingKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signingKey{}, err
	}
	public, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return signingKey{}, err
	}
	private, err := key.Bytes()
	if err != nil {
		return signingKey{}, err
	}
	text := base64.RawURLEncoding.EncodeToString
	const size = 32
	return signingKey{"EC", "P-256", text(public[1 : 1+size]), text(public[1+size:]), text(private), rand.Text(), "sig", "ES256"}, nil
}

// StartProvider starts an OpenID provider. The first time on a machine it is installed with npm.
func StartProvider(o ProviderOptions) (*Provider, error) {
	path, err := installProvider()
	if err != nil {
		return nil, err
	}
	if o.Life == 0 {
		o.Life = time.Hour
	}
	p := &Provider{options: o, path: path}
	if err := p.newKey(); err != nil {
		return nil, err
	}
	if p.port, err = HoldPort(); err != nil {
		return nil, err
	}
	p.Issuer = "http://" + p.port.Address()
	if p.process, err = p.start(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Provider) newKey() error {
	key, err := newSigningKey()
	p.keys = append([]signingKey{key}, p.keys...)
	return err
}

func (p *Provider) start() (*process, error) {
	config, err := json.Marshal(map[string]any{
		"issuer": p.Issuer, "port": p.port.Number, "keys": p.keys, "users": p.options.Users, "clients": p.options.Clients,
		"life": int(p.options.Life.Seconds()), "deviceLife": 300,
	})
	if err != nil {
		return nil, err
	}
	node, err := find("node", "nodejs npm")
	if err != nil {
		return nil, err
	}
	return start(command(nil, p.path, node, "provider.mjs", string(config)), p.answers)
}

// answers asks for the discovery document.
func (p *Provider) answers() error {
	resp, err := http.Get(p.Issuer + "/.well-known/openid-configuration")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// Rotate signs with a new key from now on. The earlier keys stay published unless forget is set.
func (p *Provider) Rotate(forget bool) error {
	p.Stop()
	if forget {
		p.keys = nil
	}
	if err := p.newKey(); err != nil {
		return err
	}
	return p.Restart()
}

// Stop makes the provider unreachable.
func (p *Provider) Stop() {
	if p.process != nil {
		p.process.kill(syscall.SIGKILL)
		p.process = nil
	}
}

// Restart makes a stopped provider reachable again, at the same address.
func (p *Provider) Restart() (err error) {
	p.process, err = p.start()
	return err
}

// Close stops the provider.
func (p *Provider) Close() error {
	p.Stop()
	return p.port.Release()
}

// installProvider returns the folder with the provider's program and what it needs.
func installProvider() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	names := []string{"package.json", "package-lock.json", "provider.mjs"}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, name := range names {
		if files[name], err = provider.ReadFile("provider/" + name); err != nil {
			return "", err
		}
		sum.Write(files[name])
	}
	base := filepath.Join(cache, "orrery-testservice")
	dir := filepath.Join(base, "oidc-provider-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(base, "installing-") // whole or not at all, also with two test binaries at once
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(tmp, name), files[name], 0o644); err != nil {
			return "", err
		}
	}
	npm, err := find("npm", "nodejs npm")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = tmp
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fault.New(fault.NotFound, "the test needs an OpenID provider, which could not be installed: %v\n%s", err, out.String()).
			WithHint("npm must reach a registry once; the lock file is internal/testservice/provider/package-lock.json")
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", err
	}
	return dir, nil
}
