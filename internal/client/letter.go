package client

import (
	"context"
	"net/url"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/work"
)

const deadLetters = "/api/v1/dead-letters"

func letter(run work.RunID, more string) string {
	return deadLetters + "/" + url.PathEscape(string(run)) + more
}

// DeadLetters lists dead steps that nobody has dealt with, oldest first.
func (c *Client) DeadLetters(ctx context.Context, q api.LetterQuery) (api.DeadLetterList, error) {
	v := url.Values{"label": q.Labels}
	for name, value := range map[string]string{"pack": q.Pack, "step": q.Step, "code": q.Code, "since": q.Since, "before": q.Before, "state": q.State} {
		if value != "" {
			v.Set(name, value)
		}
	}
	var out api.DeadLetterList
	err := c.get(ctx, deadLetters, v, &out)
	return out, err
}

// DeadLetter returns the dead steps of a run, also those that were dealt with.
func (c *Client) DeadLetter(ctx context.Context, run work.RunID) (api.DeadLetterList, error) {
	var out api.DeadLetterList
	err := c.get(ctx, letter(run, ""), nil, &out)
	return out, err
}

// NoteDeadLetter adds a note to dead steps of a run.
func (c *Client) NoteDeadLetter(ctx context.Context, run work.RunID, q api.LetterNoteRequest) (api.DeadLetterList, error) {
	var out api.DeadLetterList
	err := c.post(ctx, letter(run, "/notes"), q, &out)
	return out, err
}

// AcknowledgeDeadLetter says that somebody looks after dead steps of a run.
func (c *Client) AcknowledgeDeadLetter(ctx context.Context, run work.RunID, q api.LetterRequest) (api.DeadLetterList, error) {
	var out api.DeadLetterList
	err := c.post(ctx, letter(run, "/acknowledge"), q, &out)
	return out, err
}

// DiscardDeadLetter deals with dead steps of a run for good.
func (c *Client) DiscardDeadLetter(ctx context.Context, run work.RunID, q api.LetterRequest) error {
	return c.post(ctx, letter(run, "/resolve"), q, nil)
}

// Redrive retries the runs of dead steps, or says which.
func (c *Client) Redrive(ctx context.Context, q api.RedriveRequest) (api.RedriveReply, error) {
	var out api.RedriveReply
	err := c.post(ctx, deadLetters+"/redrive", q, &out)
	return out, err
}
