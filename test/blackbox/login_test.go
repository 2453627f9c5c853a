package blackbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/testservice"
)

// B1: somebody logs in at an identity provider with the browser of the machine, and where there is none by a code; works; and logs out.
func TestB1_LoginAtAProvider(t *testing.T) {
	p, err := testservice.StartProvider(testservice.ProviderOptions{
		Clients: []string{"orrery"},
		Users:   map[string]map[string]any{"u-ada": {"preferred_username": "ada", "groups": []string{"builders"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	write(t, dir, "providers.yaml", fmt.Appendf(nil, `providers:
  - name: corp
    issuer: %s
    clientId: orrery
    scopes: [openid, profile, groups]
    session: 1h
    provision: true
    tenant: {fixed: local}
    roles:
      claim: groups
      values:
        builders: [operator, publisher]
`, p.Issuer))
	write(t, dir, "hello.yaml", []byte("steps: [{run: echo hello}]\n"))
	// Whoever is shown an address writes it down; the person at the browser goes there.
	write(t, dir, "browser", []byte("#!/bin/sh\nprintf '%s\\n' \"$1\" > "+dir+"/address.part && mv "+dir+"/address.part "+dir+"/address\n"))
	gone := make(chan error, 1)
	go func() { gone <- person(t, dir) }()
	out, err := shell(t, dir, prelude+`
ln -s "$HOME/streams/err" .err
orrery up --data "$PWD/d" --listen 127.0.0.1:0 --identity-providers providers.yaml > up.out 2> up.err & pid=$!
eventually grep -q '^ready at' up.out
url=$(sed -n 's/^ready at //p' up.out)
unset ORRERY_IDENTITY DISPLAY WAYLAND_DISPLAY

export BROWSER=$PWD/browser
exits 0 orrery login --oidc --server "$url" --name work -o json
json 'd["subject"] == "ada" and d["tenant"] == "local" and d["provider"] == "corp" and "packs.run" in d["scopes"]'
token=$HOME/.config/orrery/tokens/work
[ "$(stat -c %a "$token")" = 600 ] || fail "others may read the session"
grep -q '^orr_' "$token" || fail "what is kept is not a token of the server"
if grep -r 'eyJ' "$HOME/.config"; then fail "a token of the provider is kept"; fi
exits 0 orrery run hello.yaml
out 'hello'
exits 4 orrery user list

exits 0 orrery logout
[ ! -e "$token" ] || fail "the session is still there"
exits 5 orrery logout

# Without a browser: a code, for any other machine.
unset BROWSER
exits 0 orrery login --oidc --server "$url" --name work
out 'is ada in tenant local until'
err 'enter the code'
exits 0 orrery run hello.yaml
cp "$token" kept
exits 0 orrery logout
exits 4 orrery --server "$url" --token-file kept runs list
err 'revoked'

# A session that has ended is told from a token that is wrong, and what to do stands beside it.
export BROWSER=$PWD/browser
exits 0 orrery login --oidc --server "$url" --name work
sed -i 's/expires: .*/expires: 2020-01-01T00:00:00Z/' "$HOME/.config/orrery/contexts.yaml"
exits 4 orrery runs list
err 'your session at .* ended at 2020'
err 'orrery login --oidc --server '"$url"
exits 0 orrery logout

exits 5 orrery login --oidc --server "$url" --provider nobody
kill $pid; wait $pid
`)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	write(t, dir, "over", nil)
	if err := <-gone; err != nil {
		t.Error(err)
	}
}

// person logs in wherever somebody is sent: by the address that a browser was given, or by the one that a terminal shows.
func person(t *testing.T, dir string) error {
	seen := map[string]bool{}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for range look.C {
		if _, err := os.Stat(filepath.Join(dir, "over")); err == nil || t.Context().Err() != nil {
			return nil
		}
		var address string
		if raw, err := os.ReadFile(filepath.Join(dir, "address")); err == nil {
			address = strings.TrimSpace(string(raw))
		}
		if raw, err := os.ReadFile(filepath.Join(dir, ".err")); err == nil {
			if _, after, ok := strings.Cut(string(raw), "or open "); ok && strings.Contains(after, "\n") {
				address, _, _ = strings.Cut(after, "\n")
			}
		}
		if address == "" || seen[address] {
			continue
		}
		seen[address] = true
		if _, err := testservice.NewBrowser("u-ada").Visit(address); err != nil {
			return err
		}
	}
	return nil
}
