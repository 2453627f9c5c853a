package torture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Servers are killed while clients submit with an Idempotency-Key and send again whatever got no answer. Every key has one run and one answer,
// whoever asks for it and when; with another body it is refused.
func TestAnswersSurviveKills(t *testing.T) {
	onStores(t, 2, (*site).answers)
}

// submit asks for a run once. The status is 0 when there was no answer.
func (s *site) submit(key, note string) (status int, body string, replayed bool) {
	raw, err := json.Marshal(map[string]any{"manifest": "name: still\nsteps:\n- run: {uses: noop}\n", "note": note})
	if err != nil {
		s.t.Error(err)
		return 0, "", false
	}
	req, err := http.NewRequestWithContext(s.t.Context(), "POST", "http://site/api/v1/runs", bytes.NewReader(raw))
	if err != nil {
		s.t.Error(err)
		return 0, "", false
	}
	req.Header = http.Header{
		"Authorization": {"Bearer " + s.token}, "X-Orrery-Tenant": {"local"}, "Content-Type": {"application/json"}, "Idempotency-Key": {key},
	}
	resp, err := s.RoundTrip(req)
	if err != nil {
		return 0, "", false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", false
	}
	return resp.StatusCode, string(text), resp.Header.Get("Idempotency-Replayed") == "true"
}

func (s *site) answers() {
	t, dice := s.t, dice(s.t)
	var made, lost, told atomic.Int64
	var answers sync.Map // by key
	enough := make(chan struct{})
	var load sync.WaitGroup
	for w := range 6 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-enough:
					return
				default:
				}
				key, unknown := fmt.Sprintf("k-%d-%d", w, n), false
				for {
					status, body, replayed := s.submit(key, key)
					if status == 201 {
						answers.Store(key, body)
						made.Add(1)
						if unknown && replayed {
							told.Add(1)
						}
						break
					}
					if status != 0 && status < 500 {
						t.Errorf("%s: %d %s", key, status, body)
						return
					}
					if !unknown {
						lost.Add(1)
					}
					unknown = true
				}
			}
		})
	}
	for range rounds(t, 5) {
		more := made.Load() + 20 + int64(dice.IntN(80))
		eventually(t, fmt.Sprintf("answer %d", more), func() bool { return made.Load() >= more })
		i := dice.IntN(len(s.ports))
		s.kill(i)
		s.up(i)
	}
	close(enough)
	load.Wait()
	runs := map[string]int{}
	answers.Range(func(key, first any) bool {
		status, body, replayed := s.submit(key.(string), key.(string))
		if status != 201 || !replayed || body != first.(string) {
			t.Errorf("%s was answered %s, and is answered %d %s later", key, first, status, body)
		}
		if status, body, _ := s.submit(key.(string), "another"); status != 409 || !strings.Contains(body, "another body") {
			t.Errorf("%s with another body: %d %s", key, status, body)
		}
		runs[key.(string)] = 0
		return true
	})
	for before := ""; ; {
		var page struct {
			Items []struct{ Note string }
			Next  string `json:"next_page_token"`
		}
		s.get("/api/v1/runs?page_size=500&page_token="+before, &page)
		for _, run := range page.Items {
			runs[run.Note]++
		}
		if before = page.Next; before == "" {
			break
		}
	}
	for key, n := range runs {
		if n != 1 {
			t.Errorf("%s has %d runs", key, n)
		}
	}
	if lost.Load() == 0 {
		t.Error("no answer was lost: this shows nothing")
	}
	t.Logf("%d answers, %d lost on their way, %d of them told again", made.Load(), lost.Load(), told.Load())
}
