package verify

import (
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Result is the outcome of one check.
type Result string

// The results.
const (
	Pass      Result = "pass"
	Fail      Result = "fail"      // it does not hold
	Missing   Result = "missing"   // what is needed to judge it is not there
	Untrusted Result = "untrusted" // it holds, but is signed by nobody the trust root knows, or when the key did not count
)

// Check is one line of a report.
type Check struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Detail string `json:"detail"` // what was checked, or what is wrong
}

// Verdict is the sum of all checks.
type Verdict string

// The verdicts. One failed check makes the whole INVALID, else one untrusted UNTRUSTED, else one missing INCOMPLETE.
const (
	Valid      Verdict = "VALID"
	Invalid    Verdict = "INVALID"
	Incomplete Verdict = "INCOMPLETE"
	NotTrusted Verdict = "UNTRUSTED"
)

// Report is what a verifier found. What it says of the run is worth what the verdict says.
type Report struct {
	Verdict  Verdict     `json:"verdict"`
	Tenant   work.Tenant `json:"tenant,omitempty"`
	Run      work.RunID  `json:"run,omitempty"`
	Name     string      `json:"name,omitempty"`
	PlanHash work.Digest `json:"planHash,omitempty"`
	Status   work.State  `json:"status,omitempty"` // how the run ended; a failed run has valid evidence, too
	Events   int64       `json:"events,omitempty"`
	Head     work.Digest `json:"head,omitempty"`
	Checks   []Check     `json:"checks"`
}

func (r *Report) add(name, detail string, err error) {
	c := Check{Name: name, Result: Pass, Detail: detail}
	switch fault.CodeOf(err) {
	case "":
	case fault.Incomplete:
		c.Result = Missing
	case fault.Untrusted:
		c.Result = Untrusted
	default:
		c.Result = Fail
	}
	if err != nil {
		c.Detail = err.Error()
	}
	r.Checks = append(r.Checks, c)
}

func (r *Report) conclude() {
	has := map[Result]bool{}
	for _, c := range r.Checks {
		has[c.Result] = true
	}
	switch {
	case has[Fail] || len(r.Checks) == 0:
		r.Verdict = Invalid
	case has[Untrusted]:
		r.Verdict = NotTrusted
	case has[Missing]:
		r.Verdict = Incomplete
	default:
		r.Verdict = Valid
	}
}

// Err returns nil for VALID, else an error with the code fault.Unverified, fault.Untrusted or fault.Incomplete that names
// the checks behind the verdict.
func (r *Report) Err() error {
	code, because := fault.Unverified, Fail
	switch r.Verdict {
	case Valid:
		return nil
	case NotTrusted:
		code, because = fault.Untrusted, Untrusted
	case Incomplete:
		code, because = fault.Incomplete, Missing
	}
	var names []string
	for _, c := range r.Checks {
		if c.Result == because {
			names = append(names, c.Name)
		}
	}
	return fault.New(code, "the evidence is %s: %s", r.Verdict, strings.Join(names, ", "))
}

func wrong(format string, args ...any) error  { return fault.New(fault.Unverified, format, args...) }
func absent(format string, args ...any) error { return fault.New(fault.Incomplete, format, args...) }
