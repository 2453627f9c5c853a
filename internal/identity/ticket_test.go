package identity_test

import (
	"testing"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/identity"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// A ticket of somebody whom an identity provider vouches for counts as long as his account does: before it is used, and while a stream is open.
func TestB1_TicketOfADisabledLogin(t *testing.T) {
	now := func() work.Time { return 1_000_000 }
	k := kernel.New(memory.New(), kernel.Options{Now: now})
	t.Cleanup(func() { _ = k.Close() })
	s := &identity.Service{Records: k, Now: now}
	if _, err := s.CreateTenant(t.Context(), identity.Tenant{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	p, err := s.Federated(t.Context(), identity.Foreign{
		External: identity.External{Issuer: "https://idp.example", Subject: "4711"}, Provider: "corp", Tenant: "acme", Name: "ada", Roles: []string{"viewer"}, Provision: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ticket := func() string {
		t.Helper()
		text, _, err := s.Ticket(t.Context(), p, "acme")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	streaming, err := s.Redeem(t.Context(), ticket())
	if err != nil || s.Holds(t.Context(), streaming) != nil {
		t.Fatalf("%+v, %v", streaming, err)
	}
	waiting := ticket()
	admin := access.Principal{Subject: "root", Scopes: []access.Scope{access.Admin}}
	change := func(disabled bool) {
		t.Helper()
		if _, err := s.ChangeAccount(t.Context(), admin, identity.Account{Tenant: "acme", Name: "ada", Roles: []string{"viewer"}, Disabled: disabled}); err != nil {
			t.Fatal(err)
		}
	}
	change(true)
	if err := s.Holds(t.Context(), streaming); fault.CodeOf(err) != fault.Unauthenticated {
		t.Errorf("a stream of a disabled account goes on: %v", err)
	}
	if _, err := s.Redeem(t.Context(), waiting); fault.CodeOf(err) != fault.Unauthenticated {
		t.Errorf("a ticket of a disabled account opens a stream: %v", err)
	}
	change(false)
	if err := s.Holds(t.Context(), streaming); err != nil {
		t.Errorf("the account counts again: %v", err)
	}
}
