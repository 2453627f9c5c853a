package torture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/internal/testservice"
)

// fleetPack has a step that others wait for, several at once, and one at the end.
const fleetPack = `
name: fleet
version: 1.0.0
steps:
  - id: first
    run: echo first
  - id: each
    map:
      items: [a, b, c, d]
      step:
        id: do
        run: echo each
  - id: last
    run: echo last
`

const fleetSteps = 6 // attempts that succeed in a run of it

// part is a process of the fleet that is killed and started again.
type part struct {
	fleet *fleet
	name  string
	args  []string
	ready string // what it prints when it is
	url   string // of a server, as it printed it first
	lock  sync.Mutex
	cmd   *exec.Cmd
}

// fleet is one PostgreSQL, servers on it, and workers that connect to them.
type fleet struct {
	*folder
	database *testservice.Postgres
	servers  []*part
	workers  []*part
	token    string
}

// start runs the process and waits until it says that it is ready.
func (p *part) start() error {
	c := p.fleet.command(context.Background(), p.args...)
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	said, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer said.Close()
	c.Stderr = said
	if err := c.Start(); err != nil {
		return err
	}
	p.lock.Lock()
	p.cmd = c
	p.lock.Unlock()
	late := time.AfterFunc(patience, func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), p.ready); ok {
			p.url = strings.TrimSpace(rest)
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return nil
		}
	}
	return errors.Join(fmt.Errorf("%s is not ready within %s", p.name, patience), p.kill())
}

// kill ends the process and its children, whatever they do. Error: it had ended by itself, which nothing here is meant to.
func (p *part) kill() error {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.cmd == nil {
		return nil
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	_ = p.cmd.Wait() // how it ended is in the state
	state := p.cmd.ProcessState
	p.cmd = nil
	if state.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	said, err := os.ReadFile(p.log())
	return errors.Join(fmt.Errorf("%s ended by itself, %s: %s", p.name, state, said[max(0, len(said)-8000):]), err)
}

// log is where the process writes what it has to say, over all its lives.
func (p *part) log() string { return filepath.Join(p.fleet.dir, "..", p.name+".log") }

// assemble starts a database, an object store, servers that share nothing else but a key, and workers. The workers trust the author's key and nobody else's.
func assemble(t *testing.T, servers, workers int) *fleet {
	t.Helper()
	f := &fleet{folder: newFolder(t)}
	var err error
	if f.database, err = testservice.StartPostgres(testservice.PostgresOptions{Durable: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.database.Close() })
	url, err := f.database.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files, err := testservice.StartS3()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = files.Close() })
	key := filepath.Join(f.dir, "..", "encryption.key")
	err = errors.Join(os.MkdirAll(f.dir, 0o700), os.Mkdir(filepath.Join(files.Data(), "orrery"), 0o700),
		os.WriteFile(key, []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	f.env = append(f.env, "AWS_ACCESS_KEY_ID="+files.AccessKey, "AWS_SECRET_ACCESS_KEY="+files.SecretKey)
	t.Cleanup(func() {
		for _, p := range slices.Concat(f.workers, f.servers) {
			if err := p.kill(); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range servers {
		p := &part{fleet: f, name: fmt.Sprint("server-", i), ready: "ready at ", args: []string{
			"server", "--data", f.home(i), "--store", url, "--blobs", "s3://" + files.Endpoint + "/orrery?insecure=true", "--encryption-key", key,
			"--rate", "0", "--listen", testservice.PortFor(t).Address(), // where its workers look for it whenever it comes back
		}}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		f.servers = append(f.servers, p)
	}
	raw, err := os.ReadFile(f.adminToken())
	if err != nil {
		t.Fatal(err)
	}
	f.token = strings.TrimSpace(string(raw))
	f.recruit(workers)
	return f
}

// home is the data folder of a server: nothing in it is another one's.
func (f *fleet) home(server int) string { return filepath.Join(f.dir, fmt.Sprint("server-", server)) }

// adminToken is the file that the server which was first has left.
func (f *fleet) adminToken() string { return filepath.Join(f.home(0), "admin-token") }

// recruit makes an author whose key the servers and the workers trust, and starts workers.
func (f *fleet) recruit(n int) {
	t := f.t
	t.Helper()
	author, token, trust := filepath.Join(f.dir, "..", "author"), filepath.Join(f.dir, "..", "worker.token"), filepath.Join(f.dir, "..", "trust.json")
	home := filepath.Join(f.dir, "..", "home")
	f.env = append(f.env, "HOME="+home, "XDG_CONFIG_HOME="+home)
	f.must(0, "keys", "generate", "admin", "--usage", "submit", "--data", author)
	f.must(0, "keys", "trust-root", "-f", trust, "--data", author)
	to := []string{"--server", f.servers[0].url, "--token-file", f.adminToken()}
	f.must(0, append([]string{"login", "--name", "fleet", "--register-key", "admin", "--data", author, "--as", "admin"}, to...)...)
	f.must(0, append([]string{"user", "create", "pool", "--service", "--scope", "worker"}, to...)...)
	f.must(0, append([]string{"token", "create", "--account", "pool", "--scope", "worker", "-f", token}, to...)...)
	for i := range n {
		p := &part{fleet: f, name: fmt.Sprint("worker-", i), ready: "joined as", args: []string{
			"worker", "--server", f.servers[i%len(f.servers)].url, "--token-file", token, "--trust", trust, "--slots", "4", "--name", fmt.Sprint("w", i),
			"--data", filepath.Join(f.dir, "..", fmt.Sprint("worker-", i)),
		}}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		f.workers = append(f.workers, p)
	}
}

// submit asks for a run, of whichever server answers.
func (f *fleet) submit(i int) (string, error) {
	args := []string{"run", "--new", "--detach", "fleet.yaml", "-o", "json", "--as", "admin", "--data", filepath.Join(f.dir, "..", "author"),
		"--token-file", f.adminToken(), "--server"}
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	for try, deadline := 0, time.Now().Add(patience); ; try++ {
		c := f.command(f.t.Context(), append(args, f.servers[(i+try)%len(f.servers)].url)...)
		c.Dir = filepath.Join(f.dir, "..")
		var said bytes.Buffer
		c.Stderr = &said
		out, err := c.Output()
		var doc struct {
			Run string `json:"run"`
		}
		if json.Unmarshal(out, &doc) == nil && doc.Run != "" {
			return doc.Run, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no server takes run %d: %v %s", i, err, said.Bytes())
		}
		<-next.C // the next server may be down, too
	}
}

// line is what a stream says of a line of output.
type line struct {
	Seq  int64  `json:"sequence"`
	Text string `json:"message"`
}

func (f *fleet) get(server int, path, accept, last string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.servers[server%len(f.servers)].url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	req.Header.Set("X-Orrery-Tenant", "local")
	req.Header.Set("Accept", accept)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultClient.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		res.Body.Close()
		return nil, fmt.Errorf("%s: %d %s", path, res.StatusCode, raw)
	}
	return res, err
}

// follow reads the output of a run to its end, going on elsewhere with Last-Event-ID whenever a server is killed.
func (f *fleet) follow(run string, first int) (ids []string, resumed int, err error) {
	last := ""
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	for try, deadline := 0, time.Now().Add(patience); time.Now().Before(deadline); try++ {
		res, err := f.get(first+try, "/api/v1/runs/"+run+"/logs", "text/event-stream", last)
		if err != nil {
			<-next.C // the next server may be down, too
			continue
		}
		ended, id := false, ""
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if given, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id, last = given, given
			}
			if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				if id != "" && !strings.HasPrefix(event, "stream.") { // those are about the stream itself
					ids = append(ids, id)
				}
				id, ended = "", ended || event == "run.ended"
			}
		}
		res.Body.Close()
		if ended {
			return ids, resumed, nil
		}
		resumed++
	}
	return ids, resumed, errors.New("the stream never ended")
}

// listed are the lines of a run as a list.
func (f *fleet) listed(run string) (ids []string) {
	f.t.Helper()
	res, err := f.get(0, "/api/v1/runs/"+run+"/logs", "application/x-ndjson", "")
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var l line
		if err := dec.Decode(&l); err == io.EOF {
			return ids
		} else if err != nil {
			f.t.Fatal(err)
		}
		ids = append(ids, strconv.FormatInt(l.Seq, 10))
	}
}

// havoc kills parts of the fleet, the database among them, and starts them again: so often, or until stop is closed.
func (f *fleet) havoc(r *rand.Rand, often int, stop <-chan struct{}) (kills map[string]int, err error) {
	kills = map[string]int{}
	for range often {
		wait := time.NewTimer(time.Duration(200+r.IntN(800)) * time.Millisecond)
		select {
		case <-stop:
			wait.Stop()
			return kills, nil
		case <-wait.C:
		}
		switch n := r.IntN(8); {
		case n == 0:
			kills["database"]++
			f.database.Kill()
			err = f.database.Start()
		case n < 4:
			p := f.servers[r.IntN(len(f.servers))]
			kills["server"]++
			if err = p.kill(); err == nil {
				err = p.start()
			}
		default:
			p := f.workers[r.IntN(len(f.workers))]
			kills["worker"]++
			if err = p.kill(); err == nil {
				err = p.start()
			}
		}
		if err != nil {
			return kills, err
		}
	}
	return kills, nil
}

// Three servers on one PostgreSQL and eight workers: whatever is killed at whatever moment, nothing is lost, nothing is done twice under one
// token, and who follows a run misses nothing.
func TestFleetIsKilled(t *testing.T) {
	r := dice(t)
	f := assemble(t, 3, 8)
	if err := os.WriteFile(filepath.Join(f.dir, "..", "fleet.yaml"), []byte(fleetPack), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var ended sync.WaitGroup
	var kills map[string]int
	var trouble error
	ended.Go(func() { kills, trouble = f.havoc(rand.New(rand.NewPCG(r.Uint64(), 2)), rounds(t, 15), stop) })
	n := rounds(t, 20)
	runs := make([]string, n)
	seen := make([][]string, n)
	var resumed atomic.Int64
	var under sync.WaitGroup
	for i := range runs {
		var err error
		if runs[i], err = f.submit(i); err != nil {
			t.Error(err)
			break
		}
		under.Go(func() {
			ids, again, err := f.follow(runs[i], i)
			if err != nil {
				t.Errorf("run %s: %v", runs[i], err)
			}
			seen[i] = ids
			resumed.Add(int64(again))
		})
	}
	under.Wait()
	close(stop)
	ended.Wait()
	if trouble != nil {
		t.Fatal(trouble)
	}
	t.Logf("killed %v, streams resumed %d times", kills, resumed.Load())
	if t.Failed() {
		return
	}
	for i, run := range runs {
		if want := f.listed(run); !slices.Equal(seen[i], want) {
			t.Errorf("run %s: the stream had the lines %v, there are %v", run, seen[i], want)
		}
		f.proves(run)
	}
}

// proves examines the evidence of a run with nothing but the trust root, and counts what succeeded.
func (f *fleet) proves(run string) {
	t := f.t
	t.Helper()
	file := filepath.Join(f.dir, "..", run+".tar")
	to := []string{"--server", f.servers[0].url, "--token-file", f.adminToken()}
	f.must(0, append([]string{"evidence", "export", run, "-f", file}, to...)...)
	root := filepath.Join(f.dir, "..", "root.json")
	if _, err := os.Stat(root); err != nil {
		res, err := f.get(0, "/api/v1/trust-root", "application/json", "")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || os.WriteFile(root, raw, 0o600) != nil {
			t.Fatal(err)
		}
	}
	f.must(0, "verify", file, "--trust", root, "--data", filepath.Join(f.dir, "..", "nowhere"))
	res, err := f.get(0, "/api/v1/runs/"+run+"/events", "application/x-ndjson", "")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	type event struct {
		Type string `json:"type"`
		Step string `json:"step"`
		Data struct {
			State string `json:"state"`
			Token struct {
				Epoch int `json:"epoch"`
			} `json:"token"`
		} `json:"data"`
	}
	epoch, held, succeeded := map[string]int{}, map[string]bool{}, 0
	dec := json.NewDecoder(res.Body)
	for {
		var e event
		if err := dec.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch e.Type {
		case "step.claimed":
			if e.Data.Token.Epoch <= epoch[e.Step] || held[e.Step] {
				t.Errorf("run %s: step %s is claimed with epoch %d after %d, which is still held: %v", run, e.Step, e.Data.Token.Epoch, epoch[e.Step], held[e.Step])
			}
			epoch[e.Step], held[e.Step] = e.Data.Token.Epoch, true
		case "step.reported":
			if !held[e.Step] {
				t.Errorf("run %s: step %s is reported twice under one token", run, e.Step)
			}
			held[e.Step] = false
		case "step.revoked", "step.unbound":
			held[e.Step] = false
		case "step.ended":
			if e.Data.State == "succeeded" && epoch[e.Step] > 0 {
				succeeded++
			}
		}
	}
	if succeeded != fleetSteps {
		t.Errorf("run %s: %d steps that were worked on have succeeded, not %d", run, succeeded, fleetSteps)
	}
}
