package blackbox

import (
	"fmt"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
)

// B18: a step gets a secret from a server of secrets, nothing else shows it in any form, and a sealed pack gets none from there.
func TestB18_Vault(t *testing.T) {
	v, err := testservice.StartVault()
	if fault.CodeOf(err) == fault.NotFound {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := v.Write("kv/deploy", map[string]any{"token": "correct-horse-battery-staple"}); err != nil {
		t.Fatal(err)
	}
	id, secret, err := v.Role("worker", 3600, 1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const pack = "inputs:\n  token: {type: secret}\nsteps:\n  - id: show\n    env: {TOKEN: \"${{ inputs.token }}\"}\n    run: |\n" +
		"      echo \"it has ${#TOKEN} characters\"\n      echo \"and is $TOKEN\"\n      printf %s \"$TOKEN\" | base64\n      printf %s \"$TOKEN\" | od -An -tx1 | tr -d ' \\n'\n"
	write(t, dir, "pack.yaml", []byte(pack))
	write(t, dir, "sealed.yaml", []byte("sealed: true\n"+pack))
	out, err := shell(t, dir, prelude+fmt.Sprintf("export ORRERY_DATA=$PWD/d; umask 077; address=%s ca=%s role=%s secret=%s root=%s\n", v.URL, v.CA, id, secret, v.Root)+`
printf '%s\n' "$root" > "$HOME/token" # not beside the pack, whose files are kept
exits 3 orrery run pack.yaml --input token=vault:kv/deploy#token
err 'VAULT_ADDR'
export VAULT_ADDR=$address VAULT_CACERT=$ca VAULT_TOKEN_FILE=$HOME/token
exits 0 orrery run --new pack.yaml --input token=vault:kv/deploy#token
out 'it has 28 characters'
out 'and is .redacted:token'
exits 0 orrery evidence export @latest -f ev.tar
valid ev.tar
exits 3 orrery run --new pack.yaml --input token=vault:kv/deploy#other
err 'no field other'
exits 3 orrery run --new pack.yaml --input token=vault:kv/nowhere#token
err 'no kv/nowhere'
exits 2 orrery run --new pack.yaml --input token=vault:kv/../sys/mounts#token
exits 2 orrery run --new sealed.yaml --input token=vault:kv/deploy#token
err 'sealed.yaml:[0-9]+.*is sealed'
unset VAULT_TOKEN_FILE
export VAULT_ROLE_ID=$role VAULT_SECRET_ID=$secret
exits 0 orrery run --new pack.yaml --input token=vault:kv/deploy#token
out 'it has 28 characters'
exits 3 orrery run --new pack.yaml --input token=vault:kv/deploy#token
err 'refuses the role'
mkdir x && tar -xf ev.tar -C x
for kept in correct-horse "$(printf correct-horse-battery-stapl | base64)" "$root" "$secret"; do
	if grep -rqaF -e "$kept" x d; then fail "$kept is kept"; fi
done
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
