package testservice

import (
	"strings"
	"testing"
)

func TestProvider(t *testing.T) {
	p, err := StartProvider(ProviderOptions{
		Clients: []string{"orrery"}, Users: map[string]map[string]any{"ada": {"preferred_username": "ada", "groups": []string{"builders"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for range 2 {
		id, access, err := p.Tokens(t.Context(), "ada", "orrery", "https://orrery.test")
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{id, access} {
			if strings.Count(token, ".") != 2 {
				t.Errorf("%q is no JWT", token)
			}
		}
		if err := p.Rotate(false); err != nil {
			t.Fatal(err)
		}
	}
}
