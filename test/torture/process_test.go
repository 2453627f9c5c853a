package torture

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// payloads returns the processes of the folder's steps whose program has a name.
func (f *folder) payloads(name string) []int {
	var found []int
	for _, pid := range survivors("MARK=" + f.mark) {
		comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			found = append(found, pid)
		}
	}
	return found
}

// children returns the processes that a process has started.
func children(t *testing.T, parent int) []int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(parent) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, file := range tasks {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for text := range strings.FieldsSeq(string(raw)) {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	return found
}

// A step whose processes are killed, by whomever, has failed: it is tried again, and nothing of it stays.
func TestStepKilled(t *testing.T) {
	t.Parallel()
	for name, victims := range map[string]func(*folder, *live) []int{
		"payload": func(f *folder, _ *live) []int { return f.payloads("sleep") },
		"shell":   func(f *folder, _ *live) []int { return f.payloads("sh") },
		"shim":    func(f *folder, l *live) []int { return children(f.t, l.cmd.Process.Pid) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			l := f.start(append(f.pack("slow"), "-o", "json")...)
			f.working()
			pids := victims(f, l)
			if len(pids) == 0 {
				t.Fatal("there is nobody to kill")
			}
			for _, pid := range pids {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			if r := l.end(); r.code != 0 {
				t.Fatalf("%s", r)
			}
			h := f.proven(f.only().Run)
			if h.ended != "succeeded" || h.succeeded["long"] != 1 || h.claims != 5 {
				t.Errorf("the history is %+v", h)
			}
			f.clean()
		})
	}
}

// One folder belongs to one process. Another is told whose it is, may look meanwhile, and changes nothing.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	l := f.start(f.pack("slow")...)
	f.working()
	run := f.only()
	for _, args := range [][]string{f.pack("many"), f.pack("slow"), {"runs", "resume", run.Name}} {
		r := f.run(append(args, "-o", "json")...)
		if r.code != 7 || !bytes.Contains(r.stderr, []byte("process "+strconv.Itoa(l.cmd.Process.Pid)+" has the data folder open")) {
			t.Errorf("%s", r)
		}
	}
	for _, args := range [][]string{{"runs", "show", run.Name}, {"runs", "logs", run.Name}, {"why", run.Name}, {"runs", "list"}} {
		f.must(0, args...)
	}
	if r := f.run("evidence", "export", run.Name, "-f", "-"); r.code == 0 || len(r.stdout) > 0 {
		t.Errorf("evidence of a run that goes on: %s", r)
	}
	// An order is handed to the process that has the folder.
	f.must(0, "runs", "cancel", run.Name, "--reason", "enough")
	if r := l.end(); r.code != 3 {
		t.Errorf("%s", r)
	}
	if h := f.proven(run.Run); h.ended != "cancelled" || h.succeeded["tidy"] != 1 {
		t.Errorf("the history is %+v", h)
	}
	f.clean()
}

// people makes keys.
func (f *folder) people(n int) []string {
	f.t.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = "person" + strconv.Itoa(i)
		f.must(0, "keys", "generate", names[i])
	}
	return names
}

// A quorum counts people, once each, however many of them answer at the same time, whether somebody has the folder or not.
func TestQuorum(t *testing.T) {
	t.Parallel()
	for name, attended := range map[string]bool{"attended": true, "unattended": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			people := f.people(10)
			people = append(people, people...) // everybody answers twice
			var l *live
			if attended {
				l = f.start(append(f.pack("quorum"), "--wait")...)
				f.shows(`"waiting"`, "runs", "list", "-o", "json")
			} else {
				f.must(8, f.pack("quorum")...)
			}
			run := f.only()
			f.must(4, "approve", run.Name, "--as", "submitter", "--reason", "mine", "--gate", "five", "--no-continue")
			var all []*live
			for _, who := range people {
				all = append(all, f.start("approve", run.Name, "--as", who, "--reason", "seen", "--no-continue"))
			}
			codes := map[int]int{}
			for _, a := range all {
				r := a.end()
				codes[r.code]++
				if r.code != 0 && r.code != 6 {
					t.Errorf("%s", r)
				}
			}
			if attended {
				if r := l.end(); r.code != 0 {
					t.Errorf("%s", r)
				}
			} else {
				f.must(0, "runs", "resume", run.Name)
			}
			f.approvals(run.Run, codes[0])
		})
	}
}

// A signed decision that is delivered again, as after a process that was killed between taking it and removing it, is neither a
// second decision nor a refusal; one of which a byte was changed is refused.
func TestDeliveredAgain(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(8, f.pack("quorum")...)
	run := f.only()
	for _, who := range f.people(5) {
		f.must(0, "approve", run.Name, "--as", who, "--reason", "seen", "--no-continue")
	}
	f.must(0, "runs", "resume", run.Name)
	files := members(t, f.evidence(run.Run))
	signed := files["approvals/five.1.dsse.json"]
	if len(signed) == 0 {
		t.Fatal("there is no signed decision in the evidence")
	}
	box := filepath.Join(f.dir, "inbox")
	if err := os.MkdirAll(box, 0o700); err != nil {
		t.Fatal(err)
	}
	altered := bytes.Replace(signed, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
	for name, raw := range map[string][]byte{"again": signed, "altered": altered} {
		if err := os.WriteFile(filepath.Join(box, name+".dsse.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := f.start(f.pack("slow")...) // any process that has the folder looks there
	refused := filepath.Join(box, "refused")
	eventually(t, "the inbox is empty", func() bool {
		left, err := filepath.Glob(filepath.Join(box, "*.dsse.json"))
		return err == nil && len(left) == 0
	})
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.end()
	if _, err := os.Stat(filepath.Join(refused, "again.dsse.json.error")); !os.IsNotExist(err) {
		t.Errorf("the decision that counts was refused: %v", err)
	}
	if _, err := os.Stat(filepath.Join(refused, "altered.dsse.json.error")); err != nil {
		t.Errorf("the altered decision was not refused: %v", err)
	}
	f.approvals(run.Run, 5)
}

// approvals checks that exactly five different people opened the gate.
func (f *folder) approvals(run string, accepted int) {
	f.t.Helper()
	if h := f.proven(run); h.ended != "succeeded" {
		f.t.Errorf("the history is %+v", h)
	}
	who := map[string]bool{}
	decided := 0
	for _, e := range f.timeline(run) {
		if e.Type == "gate.decided" {
			who[e.Data.Approver] = true
			decided++
		}
	}
	if decided != 5 || len(who) != 5 || accepted != 5 {
		f.t.Errorf("%d decisions of %d people are in the history, %d commands were told that theirs counts", decided, len(who), accepted)
	}
	f.clean()
}
