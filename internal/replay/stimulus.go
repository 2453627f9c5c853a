package replay

import (
	"encoding/json"
	"fmt"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/work"
)

// feed gives one recorded event to the engine. The error says why the engine would not have taken it.
func (r *replayer) feed(e *work.Event) error {
	before := len(r.history.Events())
	if err := r.stimulate(e); err != nil {
		return err
	}
	if len(r.history.Events()) == before {
		return fmt.Errorf("%s was not due", e.Type)
	}
	return nil
}

func (r *replayer) stimulate(e *work.Event) error {
	switch e.Type {
	case work.RunAdmitted:
		engine.Admit(r.graph, r.history, e.Time)
	case work.RunDue:
		engine.Due(r.graph, r.history, e.Time)
	case work.RunCancelAsked:
		return r.control(e, engine.Cancel)
	case work.RunPaused:
		return r.control(e, engine.Pause)
	case work.RunResumed:
		return r.control(e, engine.Resume)
	case work.StepClaimed, work.StepUnbound:
		return r.claim(e)
	case work.StepAcked, work.StepReported, work.StepRevoked:
		return r.fenced(e)
	case work.StepDue:
		engine.DueStep(r.graph, r.history, e.Time, e.Step, 0)
	case work.GateDecided:
		var d work.Decision
		if err := read(e, &d); err != nil {
			return err
		}
		return engine.Decide(r.graph, r.history, e.Time, d)
	case work.PolicyDecided:
		var d work.PolicyData
		if err := read(e, &d); err != nil {
			return err
		}
		if d.Engine == nil {
			return fmt.Errorf("the engine does not decide %s here", e.Type)
		}
		return engine.Rule(r.graph, r.history, e.Time, e.Step, *d.Engine)
	case work.PolicyUnavailable:
		var d work.ReasonData
		if err := read(e, &d); err != nil {
			return err
		}
		return engine.Unanswered(r.graph, r.history, e.Time, e.Step, d.Reason.Message)
	default:
		return fmt.Errorf("the engine does not decide %s here", e.Type)
	}
	return nil
}

type controller func(*engine.Graph, engine.View, work.Time, work.Actor) error

func (r *replayer) control(e *work.Event, control controller) error {
	var actor work.Actor
	if err := read(e, &actor); err != nil {
		return err
	}
	return control(r.graph, r.history, e.Time, actor)
}

func (r *replayer) claim(e *work.Event) error {
	if e.Type == work.StepUnbound {
		if _, err := engine.Claim(r.graph, r.history, e.Time, e.Step, "", "", 0); err == nil {
			return fmt.Errorf("the values of step %q can be evaluated", e.Step)
		}
		return nil
	}
	var d work.ClaimedData
	if err := read(e, &d); err != nil {
		return err
	}
	_, err := engine.Claim(r.graph, r.history, e.Time, e.Step, d.Session, d.Worker, d.Token.Incarnation)
	r.tokens[e.Step] = d.Token
	return err
}

// fenced feeds what is only accepted under the current token of a step.
func (r *replayer) fenced(e *work.Event) error {
	switch e.Type {
	case work.StepAcked:
		var d work.AckedData
		if err := read(e, &d); err != nil {
			return err
		}
		if err := r.holds(e, d.Token); err != nil {
			return err
		}
		return engine.Ack(r.graph, r.history, e.Time, e.Step, d.Token, d.Token.Incarnation)
	case work.StepReported:
		var d work.ReportedData
		if err := read(e, &d); err != nil {
			return err
		}
		if err := r.holds(e, d.Token); err != nil {
			return err
		}
		return engine.Report(r.graph, r.history, e.Time, e.Step, d, d.Token.Incarnation)
	default:
		var d work.RevokedData
		if err := read(e, &d); err != nil {
			return err
		}
		row := r.history.Step(e.Step)
		if d.Reason.Code == work.EndedByTimeout && row != nil && e.Time < row.Timer {
			return fmt.Errorf("the lease on step %q was not due before %s", e.Step, row.Timer)
		}
		return engine.Revoke(r.graph, r.history, e.Time, e.Step, d, d.Token.Incarnation)
	}
}

// holds reports whether a worker's token is the one that was given out with the claim.
func (r *replayer) holds(e *work.Event, token work.Token) error {
	claimed, ok := r.tokens[e.Step]
	if !ok {
		return fmt.Errorf("step %q was never claimed", e.Step)
	}
	if token != claimed {
		return fmt.Errorf("step %q is held under token %d.%d, not %d.%d",
			e.Step, claimed.Incarnation, claimed.Epoch, token.Incarnation, token.Epoch)
	}
	return nil
}

func read(e *work.Event, data any) error {
	if err := json.Unmarshal(e.Data, data); err != nil {
		return fmt.Errorf("the data of %s cannot be read: %w", e.Type, err)
	}
	return nil
}
