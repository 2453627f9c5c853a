package testservice

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// opa is the policy engine that gates ask, to be had from the module proxy.
const (
	opa        = "github.com/open-policy-agent/opa"
	opaVersion = "v1.22.0"
)

// OPA is a policy engine with policies from a folder.
type OPA struct {
	URL string

	dir     string
	port    *Port
	process *process
}

// StartOPA starts a server that decides by a bundle of files, given by name: Rego, and .manifest with the revision. With token only those
// who bring it are answered. The first time on a machine it is built with the go command.
func StartOPA(token string, policies map[string]string) (*OPA, error) {
	o := &OPA{}
	var err error
	if o.dir, err = folder(nil); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(o.dir, "bundle"), 0o700); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	for name, text := range policies {
		if err := os.WriteFile(filepath.Join(o.dir, "bundle", name), []byte(text), 0o600); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	// Decisions get an id where they are logged.
	if err := os.WriteFile(filepath.Join(o.dir, "opa.yaml"), []byte("decision_logs: {console: true}\n"), 0o600); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	if token != "" {
		rule := "package system.authz\n\nimport rego.v1\n\ndefault allow := false\n\nallow if input.identity == \"" + token + "\"\n"
		if err := os.WriteFile(filepath.Join(o.dir, "bundle", "authz.rego"), []byte(rule), 0o600); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	if o.port, err = HoldPort(); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	o.URL = "http://" + o.port.Address()
	if o.process, err = o.run(token != ""); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *OPA) run(guarded bool) (*process, error) {
	path, err := built(opa, opaVersion)
	if err != nil {
		return nil, err
	}
	args := []string{
		"run", "--server", "--skip-version-check", "--addr", o.port.Address(), "--log-level", "error",
		"--config-file", filepath.Join(o.dir, "opa.yaml"),
	}
	if guarded {
		args = append(args, "--authentication=token", "--authorization=basic")
	}
	args = append(args, "--bundle", "bundle") // which is also what the bundle is called
	return start(command(nil, o.dir, path, args...), answers(o.port.Address()))
}

// Stop makes the server unreachable.
func (o *OPA) Stop() {
	if o.process != nil {
		o.process.kill(syscall.SIGKILL)
		o.process = nil
	}
}

// Restart makes a stopped server reachable again, at the same address.
func (o *OPA) Restart() (err error) {
	_, noRules := os.Stat(filepath.Join(o.dir, "bundle", "authz.rego"))
	o.process, err = o.run(noRules == nil)
	return err
}

// Close stops the server and removes its files.
func (o *OPA) Close() error {
	o.Stop()
	return errors.Join(o.port.Release(), os.RemoveAll(o.dir))
}
