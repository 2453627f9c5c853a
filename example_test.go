package orrery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"orrery.example/orrery"
	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
)

// installation is a real server in this process, with a token of its administrator and one for workers.
type installation struct {
	url, admin, worker string
	server             *app.Server
	stop               func()
}

func install() (*installation, error) {
	dir, err := os.MkdirTemp("", "orrery-example-")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s, err := app.OpenServer(ctx, app.ServerOptions{
		Options: app.Options{Dir: dir, Tenant: "local"}, Listen: "127.0.0.1:0", Drain: 10 * time.Second, Version: "example",
	})
	if err != nil {
		stop()
		return nil, err
	}
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, func(url string) { ready <- url }) }()
	i := &installation{admin: s.Admin, server: s, stop: func() {
		stop()
		<-ended
		_ = s.Close()
		_ = os.RemoveAll(dir)
	}}
	select {
	case i.url = <-ready:
	case err := <-ended:
		return nil, err
	}
	if err := i.post("accounts", map[string]any{"name": "pool", "kind": "service", "scopes": []string{"worker"}}, nil); err != nil {
		return nil, err
	}
	var token struct {
		Token string `json:"token"`
	}
	err = i.post("tokens", map[string]any{"account": "pool", "scopes": []string{"worker"}}, &token)
	i.worker = token.Token
	return i, err
}

func (i *installation) post(path string, in, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, i.url+"/api/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+i.admin)
	req.Header.Set("X-Orrery-Tenant", "local")
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// keyring is the trust root that the worker of the example has: here that of the server's administrator.
func (i *installation) keyring() (orrery.Trust, error) {
	t, err := i.server.Keys.Trust()
	if err != nil {
		return orrery.Trust{}, err
	}
	raw, err := t.Encode()
	if err != nil {
		return orrery.Trust{}, err
	}
	return orrery.ParseTrust(raw)
}

const pack = `name: greetings
version: 1.0.0
inputs:
  who: {type: string, default: world}
steps:
- id: greet
  run:
    uses: acme/greet
    with: {name: "${{ inputs.who }}", times: 2}
  sandbox: {tier: t0}
  outputs:
    text: {}
`

// A worker with a handler for a kind of steps of its own, and a client that asks for such a step.
func Example() {
	site, err := install()
	if err != nil {
		log.Fatal(err)
	}
	defer site.stop()
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()

	// The worker's side.
	station, err := orrery.NewClient(orrery.Config{Server: site.url, Token: site.worker})
	if err != nil {
		log.Fatal(err)
	}
	worker := orrery.NewWorker(station, orrery.WorkerConfig{Name: "greeter", Slots: 2, Trust: site.keyring})
	worker.Handle("acme/greet", func(ctx context.Context, job *orrery.Job) error {
		times, err := job.With["times"].(json.Number).Int64()
		if err != nil {
			return err
		}
		for n := range times {
			job.Progress(int(100*n/times), "greeting %d", n+1)
			job.Log("hello, %s", job.With["name"])
		}
		job.Output("text", fmt.Sprintf("hello, %s", job.With["name"]))
		return ctx.Err()
	})
	ended := make(chan error, 1)
	working, leave := context.WithCancel(ctx)
	go func() { ended <- worker.Run(working) }()

	// The client's side.
	client, err := orrery.NewClient(orrery.Config{Server: site.url, Token: site.admin, Tenant: "local"})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := client.Submit(ctx, api.SubmitRequest{
		PackSource: api.PackSource{Manifest: pack}, Inputs: map[string]json.RawMessage{"who": []byte(`"Ada"`)},
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	run, err := client.Wait(ctx, reply.RunID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(run.State)
	for line, err := range client.Logs(ctx, reply.RunID, 1) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(line.EventType, strings.TrimSpace(line.Message))
	}
	leave()
	fmt.Println(<-ended)
	// Output:
	// succeeded
	// step.progress 0% greeting 1
	// step.message hello, Ada
	// step.progress 50% greeting 2
	// step.message hello, Ada
	// <nil>
}
