package control_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// What several people ask for at once is signed once by each of them, and one whose request cannot be made keeps nobody else back.
func TestSignedAtOnce(t *testing.T) {
	ctx := context.Background()
	now := func() work.Time { return 1_750_000_000_000_000 }
	rows := kernel.New(memory.New(), kernel.Options{Now: now})
	defer rows.Close()
	file := filepath.Join(t.TempDir(), "pack.yaml")
	if err := os.WriteFile(file, []byte("name: p\nversion: 1.0.0\nsteps:\n- run: {uses: noop}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := pack.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	built, err := control.Plan(loaded, nil)
	if err != nil {
		t.Fatal(err)
	}
	var trust keyring.Trust
	var people []*keyring.Private
	for _, name := range []string{"alice", "bob", "carol"} {
		p, err := keyring.Generate(name, keyring.Ed25519, []keyring.Usage{keyring.Submit}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if trust, err = trust.With(p.Key); err != nil {
			t.Fatal(err)
		}
		people = append(people, p)
	}
	blobs, err := folder.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &control.Service{Store: rows, Blobs: blobs, Trust: func() (keyring.Trust, error) { return trust, nil }, Now: now}
	var subs []control.Submission
	for _, who := range []int{0, 1, 0, 2, 1, 0} {
		subs = append(subs, control.Submission{Tenant: "acme", Built: built, Files: loaded.FS, By: people[who]})
	}
	broken := *built
	broken.Hash = "none" // nobody signs for that
	subs[2].Built = &broken
	signatures := map[string]int{}
	for i, made := range s.SubmitAll(ctx, subs) {
		if i == 2 {
			if fault.CodeOf(made.Err) != fault.Invalid {
				t.Error(made.Err)
			}
			continue
		}
		if made.Err != nil {
			t.Fatal(i, made.Err)
		}
		raw, err := rows.Document(ctx, "acme", made.Run.ID, kernel.DocumentRequest)
		if err != nil {
			t.Fatal(err)
		}
		e, err := dsse.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		asked, _, err := evidence.VerifySubmission(e, trust, now(), dsse.Holds)
		if err != nil || asked.Run != made.Run.ID || asked.Submitter != subs[i].By.Name() {
			t.Error(i, asked, err)
		}
		signatures[asked.Submitter+" "+string(e.Signatures[0].Sig)]++
		if alone := e.Signatures[0].Batch == nil; alone != (asked.Submitter == "carol") {
			t.Errorf("the request of %s is signed alone: %v", asked.Submitter, alone)
		}
	}
	counts := map[string]int{}
	for key, n := range signatures {
		counts[strings.Fields(key)[0]] += n
	}
	if len(signatures) != 3 || counts["alice"] != 2 || counts["bob"] != 2 || counts["carol"] != 1 {
		t.Errorf("%d signatures for %v", len(signatures), counts)
	}
}
