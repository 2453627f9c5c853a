package remote_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// foreign starts the worker that was written from the reference alone, in another language.
func (r *rig) foreign(t *testing.T, trust keyring.Trust, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	raw, err := trust.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"token": []byte("one\n"), "keyring.json": raw} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program, err := filepath.Abs("../../sdk/python-worker/worker.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", append([]string{"-B", program, "--server", r.server.URL, "--token-file", filepath.Join(dir, "token"),
		"--trust", filepath.Join(dir, "keyring.json"), "--dir", dir, "--label", "lang=python"}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

// plain is a step for a worker without a sandbox.
func plain(id string, spec work.RunSpec) work.PlanStep {
	s := runStep(id, spec)
	s.Run.Sandbox.MinTier, s.Run.Labels = "t0", map[string]string{"lang": "python"}
	return s
}

// A worker in another language, written from the reference, does the same work; when it is killed another one takes over.
func TestPythonWorker(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("python3 is not installed: apt-get install python3")
	}
	r := newRig(t)
	r.timers()
	alice := author(t, "alice")
	bob, err := keyring.Generate("bob", keyring.ECDSAP256, []keyring.Usage{keyring.Submit}, work.At(time.Now().Add(-time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	var trust keyring.Trust
	for _, k := range []keyring.Key{alice.Key, bob.Key} {
		if trust, err = trust.With(k); err != nil {
			t.Fatal(err)
		}
	}
	first := r.foreign(t, trust, "--slots", "2")

	t.Run("work", func(t *testing.T) {
		file, _, err := r.blobs.Put(t.Context(), acme, strings.NewReader("from the pack\n"))
		if err != nil {
			t.Fatal(err)
		}
		one := plain("one", work.RunSpec{
			Runner: "shell", Script: `cat sub/in.txt; echo "$N and $1"; echo "out=$N" > "$ORRERY_OUTPUT"; head -c 9000000 /dev/zero > big`,
			Args: []string{"${{ inputs.word }}!"}, Env: map[string]string{"N": "${{ inputs.n }}"},
			Outputs: []work.StepOutput{{Name: "big", Path: "big"}, {Name: "out", Type: "integer"}},
		})
		two := plain("two", work.RunSpec{
			Runner: "python", Script: `import os, sys; print(os.stat("got/big").st_size, os.environ["O"]); sys.exit(3)`,
			Env: map[string]string{"O": "${{ steps.one.outputs.out }}"}, Artifacts: []work.ArtifactUse{{Step: "one", Output: "big", To: "got/"}},
		})
		two.Needs = []work.StepID{"one"}
		p := &work.Plan{
			Inputs: []work.Input{{Name: "n", Type: "integer", Value: []byte("41")}, {Name: "word", Type: "string", Value: []byte(`"wörd"`)}},
			Files:  []work.File{{Path: "sub/in.txt", Digest: file, Size: 14}}, Steps: []work.PlanStep{one, two},
		}
		r.submit(signed(t, alice, "run_work", p, nil), "run_work", p)
		run := r.ends("run_work")
		if got, want := r.text("run_work"), "from the pack\n41 and wörd!\n9000000 41\n"; got != want {
			t.Errorf("output %q, want %q", got, want)
		}
		if run.State != work.Failed || run.Reason.Subject != "two" {
			t.Errorf("the run is %s %+v", run.State, run.Reason)
		}
	})

	t.Run("trust", func(t *testing.T) {
		cases := map[string]struct {
			by   keyring.Signer
			run  work.RunID
			code work.ReasonCode
		}{
			"p256": {bob, "run_p256", work.EndedWell}, "stranger": {author(t, "alice"), "run_stranger", work.EndedByDistrust},
			"batched": {bob, "run_batched", work.EndedWell}, "misplaced": {alice, "run_misplaced", work.EndedByDistrust},
			"replayed": {alice, "run_other", work.EndedByDistrust}, "unsigned": {nil, "", work.EndedByDistrust},
		}
		for name, c := range cases {
			p := &work.Plan{Steps: []work.PlanStep{plain("a", work.RunSpec{Runner: "process", Command: []string{"true"}})}}
			var request []byte
			switch {
			case name == "batched" || name == "misplaced":
				e := batched(t, c.by, c.run, p)
				if name == "misplaced" {
					e.Signatures[0].Batch.Proof[0][0] ^= 1
				}
				request = e.Encode()
			case c.by != nil:
				request = signed(t, c.by, c.run, p, func(s *evidence.Submission) { s.ExpiresAt = work.At(time.Now().Add(time.Hour)) })
			}
			id := work.RunID("run_" + name)
			r.submit(request, id, p)
			r.ends(id)
			if got := reported(r, id); got.Code != c.code {
				t.Errorf("%s: %+v, want %s", name, got, c.code)
			}
		}
	})

	t.Run("killed", func(t *testing.T) {
		path, _ := journal(t)
		step := plain("a", work.RunSpec{Runner: "shell", Script: `echo "$ORRERY_STEP $ORRERY_ATTEMPT" >> ` + path + `; test "$ORRERY_ATTEMPT" != 1 || exec sleep 300`})
		p := &work.Plan{Steps: []work.PlanStep{step}}
		r.submit(signed(t, alice, "run_killed", p, nil), "run_killed", p)
		r.until("run_killed", "begun", func(*work.Run) bool { _, err := os.Stat(path); return err == nil })
		if err := first.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		r.skew.Add(int64(time.Minute)) // its session is over
		r.foreign(t, trust)
		if run := r.ends("run_killed"); run.State != work.Succeeded || r.count("run_killed", work.StepRevoked) != 1 {
			t.Errorf("%s %+v", run.State, run.Reason)
		}
		if n := executedOnce(t, path); n != 2 {
			t.Errorf("%d executions", n)
		}
	})
}
