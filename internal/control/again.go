package control

import (
	"context"
	"encoding/json"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/work"
)

// Counted reports whether a signed decision is in the history of its run: given again after a lost reply it is no second decision
// and no mistake.
func (s *Service) Counted(ctx context.Context, tenant work.Tenant, envelope dsse.Envelope) (bool, error) {
	trust, err := s.Trust()
	if err != nil {
		return false, err
	}
	_, answer, err := evidence.Approval(envelope, trust, s.Now())
	if err != nil || answer.Tenant != tenant {
		return false, err
	}
	run, err := s.Store.Run(ctx, tenant, string(answer.Run))
	if err != nil {
		return false, err
	}
	found := false
	err = s.EachStep(ctx, run, func(row *work.Step) {
		if row.ID != answer.Gate {
			return
		}
		for _, d := range row.Decisions {
			var earlier dsse.Envelope
			if json.Unmarshal(d.Statement, &earlier) == nil && string(earlier.Encode()) == string(envelope.Encode()) {
				found = true
			}
		}
	})
	return found, err
}
