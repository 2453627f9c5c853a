package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// reportTime is how long a worker has, beyond a step's time limit and grace, to begin it, to put files in place before and away after it, and
// to report. The worker keeps the limit itself; the lease ends so that nobody waits for a worker that lives and never reports.
const reportTime = work.Time(30 * time.Second / time.Microsecond)

// Claim grants a lease on a queued step and returns what its worker renders the step with. The lease's deadline is the
// step's time limit, grace and the time to report from now. Errors: fault.Conflict when the step is not to be had (any more).
func Claim(g *Graph, v View, now work.Time, id work.StepID, session, worker string, incarnation int64) (*Bindings, error) {
	row := v.Step(id)
	if row == nil || row.State != work.Queued || row.Held || row.Queue == nil {
		return nil, fault.New(fault.Conflict, "step %q is not waiting for a worker", id)
	}
	m := begin(g, v, now)
	spec := g.Spec(id).Run
	bindings, err := m.bind(id)
	if err == nil {
		bindings.Run["attempt"] = int64(row.Attempt + 1)
	}
	var digest work.Digest
	if err == nil {
		digest, _, err = canonical.DigestOf(bindings)
	}
	if err != nil {
		// A worker asked: without this stimulus nobody could replay when the step was found to be broken.
		v.Emit(work.StepUnbound, id, row.Attempt+1, nil)
		m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
		m.settle()
		return nil, fault.New(fault.Conflict, "step %q cannot be rendered: %v", id, err)
	}
	row.Attempt++
	row.Epoch++
	row.State, row.Reason = work.Running, work.Reason{}
	if row.Started == 0 {
		row.Started = m.now
	}
	row.Timer = m.now + work.Time((spec.TimeoutMs+spec.GraceMs)*1000) + reportTime
	row.Lease = &work.Lease{
		Session: session, Worker: worker, Granted: m.now, Deadline: row.Timer, Concurrency: row.Queue.Concurrency,
		Queue: row.Queue.Name(), Incarnation: incarnation,
	}
	row.Queue = nil
	v.Save(row)
	v.Emit(work.StepClaimed, id, row.Attempt, work.ClaimedData{
		Token: work.Token{Incarnation: incarnation, Epoch: row.Epoch}, Session: session, Worker: worker, Bindings: digest,
	})
	return bindings, nil
}

// fenced returns the row of a running step if the token is its current one.
func fenced(v View, id work.StepID, token work.Token, incarnation int64) (*work.Step, error) {
	row := v.Step(id)
	if row == nil || row.Lease == nil || row.Epoch != token.Epoch || token.Incarnation != incarnation {
		return nil, fault.New(fault.Stale, "the lease on step %q is no longer held under this token", id)
	}
	return row, nil
}

// Ack notes that the worker checked the plan and began. Errors: fault.Stale.
func Ack(g *Graph, v View, now work.Time, id work.StepID, token work.Token, incarnation int64) error {
	row, err := fenced(v, id, token, incarnation)
	if err != nil {
		return err
	}
	if row.Lease.Acked != 0 {
		return nil
	}
	m := begin(g, v, now)
	row.Lease.Acked = m.now
	v.Save(row)
	v.Emit(work.StepAcked, id, row.Attempt, work.AckedData{Token: token})
	return nil
}

// Report takes the end of an attempt from its worker. A report under the current token counts even after the deadline,
// as long as nobody has revoked the lease. Errors: fault.Stale.
func Report(g *Graph, v View, now work.Time, id work.StepID, data work.ReportedData, incarnation int64) error {
	row, err := fenced(v, id, data.Token, incarnation)
	if err != nil {
		return err
	}
	m := begin(g, v, now)
	v.Emit(work.StepReported, id, row.Attempt, data)
	switch {
	case data.State == work.Succeeded:
		m.end(row, work.Succeeded, work.Reason{Code: work.EndedWell}, data.Outputs, data.Artifacts)
	case row.Lease.Cancel || data.State == work.Cancelled:
		state := data.State
		if row.Lease.Cancel {
			state = work.Cancelled
		}
		m.end(row, state, data.Reason, data.Outputs, data.Artifacts)
	default:
		row.Failures++
		m.failed(row, data)
	}
	m.settle()
	return nil
}

// failed tries again or ends the step.
func (m *machine) failed(row *work.Step, data work.ReportedData) {
	retry := m.g.Spec(row.ID).Run.Retry
	again := row.Failures < retry.MaxAttempts && retries(retry, data) && !m.stopping(row.ID)
	if again {
		m.retry(row, data.Reason, retry)
		return
	}
	state, reason := data.State, data.Reason
	if retry.MaxAttempts > 1 && row.Failures >= retry.MaxAttempts {
		state = work.Dead
		reason.Message = joinMessage(reason.Message, "every attempt is used up")
	}
	m.end(row, state, reason, data.Outputs, data.Artifacts)
}

func joinMessage(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// retries reports whether the rules of a step allow another attempt after this end.
func retries(r work.RetrySpec, data work.ReportedData) bool {
	switch data.Reason.Code {
	case work.SandboxUnavailable, work.EndedByPlanMismatch, work.EndedByDistrust:
		return false
	}
	if len(r.OnExit) == 0 && len(r.OnClass) == 0 {
		return true
	}
	return data.Class == "exit" && slices.Contains(r.OnExit, data.ExitCode) || slices.Contains(r.OnClass, data.Class)
}

func (m *machine) retry(row *work.Step, reason work.Reason, r work.RetrySpec) {
	m.unslot(row)
	at := m.now + work.Time(1000*Backoff(r, row.Failures, row.Run, row.ID))
	row.State, row.Lease, row.Queue, row.Timer = work.Retrying, nil, nil, at
	row.Epoch++
	row.Reason = reason
	row.Reason.Until = at
	m.v.Save(row)
	m.v.Emit(work.StepRetrying, row.ID, row.Attempt, work.RetryingData{
		Reason: reason, At: at, Attempt: row.Failures + 1, Of: r.MaxAttempts,
	})
	m.release()
}

// Backoff returns the wait in milliseconds after the given number of failures. Jitter takes off up to half of it, by an
// amount that run, step and count determine, so that replay sees the same wait and a herd of steps does not move as one.
func Backoff(r work.RetrySpec, failures int, run work.RunID, id work.StepID) int64 {
	wait := r.BackoffMs
	for range failures - 1 {
		wait = wait * max(r.FactorMilli, 1000) / 1000
		if r.MaxBackoffMs > 0 && wait >= r.MaxBackoffMs {
			break
		}
	}
	if r.MaxBackoffMs > 0 {
		wait = min(wait, r.MaxBackoffMs)
	}
	if !r.Jitter || wait < 2 {
		return wait
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(failures))
	sum := sha256.Sum256(append([]byte(string(run)+"\x00"+string(id)+"\x00"), n[:]...))
	return wait - int64(binary.BigEndian.Uint64(sum[:8])%uint64(wait/2+1))
}

// Revoke ends a lease without a report: its session is gone, or the attempt's deadline passed. With charge the loss
// counts as a crash of the step. Errors: fault.Stale when the token is no longer current.
func Revoke(g *Graph, v View, now work.Time, id work.StepID, data work.RevokedData, incarnation int64) error {
	row, err := fenced(v, id, data.Token, incarnation)
	if err != nil {
		return err
	}
	m := begin(g, v, now)
	v.Emit(work.StepRevoked, id, row.Attempt, data)
	switch {
	case row.Lease.Cancel:
		m.end(row, work.Cancelled, data.Reason, nil, nil)
	case data.Reason.Code == work.EndedByTimeout:
		row.Failures++
		m.failed(row, work.ReportedData{State: work.TimedOut, Reason: data.Reason, Class: "timeout"})
	default:
		m.lost(row, data)
	}
	m.settle()
	return nil
}

// lost puts a step whose worker is gone before the workers again, or aside when it has taken too many with it.
func (m *machine) lost(row *work.Step, data work.RevokedData) {
	if data.Charge {
		row.Crashes++
	}
	switch {
	case row.Crashes >= MaxCrashes:
		reason := data.Reason
		reason.Code = work.CrashesExhausted
		m.end(row, work.Dead, reason, nil, nil)
	case m.stopping(row.ID):
		m.end(row, work.Failed, data.Reason, nil, nil)
	default:
		m.unslot(row)
		row.Lease = nil
		row.Epoch++
		m.queue(row, m.g.Spec(row.ID))
	}
}

// DueStep acts on a step's timer: the next attempt, a gate that nobody opened in time, or an attempt over its deadline.
// It does nothing when the timer has not passed or is gone.
func DueStep(g *Graph, v View, now work.Time, id work.StepID, incarnation int64) {
	row := v.Step(id)
	if row == nil || row.Timer == 0 || now < row.Timer {
		return
	}
	switch row.State {
	case work.Running:
		// fenced cannot fail: the token is the row's own.
		_ = Revoke(g, v, now, id, work.RevokedData{
			Token:  work.Token{Incarnation: incarnation, Epoch: row.Epoch},
			Reason: work.Reason{Code: work.EndedByTimeout, Message: "the worker did not report within the step's time limit and grace"},
		}, incarnation)
	case work.Retrying:
		m := begin(g, v, now)
		v.Emit(work.StepDue, id, row.Attempt, nil)
		m.queue(row, g.Spec(id))
		m.settle()
	case work.Waiting:
		m := begin(g, v, now)
		v.Emit(work.StepDue, id, row.Attempt, nil)
		message := "nobody decided in time"
		if row.Reason.Code == work.WaitsForPolicy {
			message = joinMessage("the policy engine "+row.Reason.Subject+" did not decide in time", row.Reason.Message)
		}
		m.end(row, work.TimedOut, work.Reason{Code: work.EndedByExpiry, Message: message}, nil, nil)
		m.settle()
	}
}
