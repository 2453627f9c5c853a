package app

import (
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// J17: steps in a server's process get from the Vault server what is set aside for their tenant. Here none is known, which is found only
// after the server has let the reference pass.
func TestJ17_VaultPathsOfTenants(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	for _, c := range []struct {
		below  string
		tenant work.Tenant
		ref    string
		want   fault.Code
	}{
		{"secret/data/orrery", "acme", "vault:secret/data/orrery/acme/deploy#token", fault.NotFound},
		{"/secret/data/orrery/", "acme", "vault:secret/data/orrery/acme/deploy#token", fault.NotFound},
		{"secret/data/orrery", "acme", "vault:secret/data/orrery/acme2/deploy#token", fault.Denied},
		{"secret/data/orrery", "acme", "vault:secret/data/orrery/acme#token", fault.Denied},
		{"secret/data/orrery", "acme", "vault:secret/data/deploy#token", fault.Denied},
		{"secret/data/orrery", "acme", "vault:secret/data/orrery/acme/../other/deploy#token", fault.Invalid},
		{"", "acme", "vault:/acme/deploy#token", fault.Denied},
		{"", "acme", "vault:acme/deploy#token", fault.Denied},
	} {
		s := &Server{Folder: &Folder{secrets: &secrets{}}, opts: ServerOptions{SecretVault: c.below}}
		if _, err := s.secret(c.tenant, c.ref); fault.CodeOf(err) != c.want {
			t.Errorf("%s for %s below %q: %v, want %s", c.ref, c.tenant, c.below, err, c.want)
		}
	}
}
