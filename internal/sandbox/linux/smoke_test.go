package linux

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"testing"

	"orrery.example/orrery/internal/sandbox"
)

func TestMain(m *testing.M) {
	if IsShim(os.Args) {
		os.Exit(ShimMain(os.Args))
	}
	os.Exit(m.Run())
}

func TestSmoke(t *testing.T) {
	d, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	c := d.Probe(context.Background())
	j, _ := json.MarshalIndent(c, "", " ")
	t.Logf("%s", j)
	var out bytes.Buffer
	dir := t.TempDir()
	r, err := d.Run(context.Background(), sandbox.Spec{Name: "smoke", Command: []string{"sh", "-c", "id; pwd; ls -la / /step; ps aux; cat /proc/self/status | grep -i -e cap -e secc -e nonew; echo hi > x; /usr/bin/python3 -c 'print(1)'; echo err > /dev/stderr; ip a; mount"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, Stdout: &out, Stderr: &out, Policy: sandbox.Policy{MinTier: sandbox.T2}})
	j, _ = json.MarshalIndent(r, "", " ")
	t.Logf("%v %s\n%s", err, j, out.String())
}
