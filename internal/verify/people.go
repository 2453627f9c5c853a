package verify

import (
	"fmt"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/jwt"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

const typeJob = "application/vnd.orrery.job+json"

// submission is what a submitter signs.
type submission struct {
	Version      string       `json:"v"`
	Tenant       work.Tenant  `json:"tenant"`
	Run          work.RunID   `json:"run,omitempty"`
	RunToken     string       `json:"runToken,omitempty"`
	Pack         work.PackRef `json:"pack"`
	InputsDigest work.Digest  `json:"inputsDigest"`
	PlanHash     work.Digest  `json:"planHash"`
	Nonce        string       `json:"nonce"`
	IssuedAt     work.Time    `json:"issuedAt"`
	ExpiresAt    work.Time    `json:"expiresAt,omitzero"`
	Submitter    string       `json:"submitter"`
	Note         string       `json:"note,omitempty"`
}

// checkRequest verifies that the submitter signed for this plan, tenant and run.
func (b *bundle) checkRequest() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know what was submitted")
	}
	sub := b.hist.submitted
	if sub.Request == "" {
		return "", absent("the history names no signed submission: nobody signed for this run. Run it again as somebody with a key")
	}
	raw, err := b.file("request.dsse.json")
	if err != nil {
		return "", err
	}
	if canonical.Digest(raw) != sub.Request {
		return "", wrong("the history names another signed submission")
	}
	// The key's time is judged by the submitter's claim, which the history bounds: see below.
	payload, key, err := b.open("request.dsse.json", raw, typeJob, keyring.Submit, b.hist.submittedAt)
	if err != nil {
		return "", err
	}
	var s submission
	if err := strict("the signed submission", payload, &s); err != nil {
		return "", err
	}
	switch {
	case s.Version != "orrery.job/v1":
		return "", wrong("the submission has version %q, this verifier knows orrery.job/v1", s.Version)
	case s.Tenant != b.manifest.Tenant:
		return "", wrong("it was signed for tenant %s", s.Tenant)
	case s.Run != "" && s.Run != b.manifest.RunID:
		return "", wrong("it was signed for run %s", s.Run)
	case s.PlanHash != b.manifest.PlanHash:
		return "", wrong("it was signed for plan %s", s.PlanHash.Short())
	case s.Pack != b.plan.Pack || s.Pack != sub.Pack:
		return "", wrong("it was signed for pack %s %s", s.Pack.Name, s.Pack.Version)
	case s.InputsDigest != sub.InputsHash || s.RunToken != sub.RunToken || s.Note != sub.Note:
		return "", wrong("the history says something else than what was signed")
	case s.Submitter != key.Name || sub.Submitter != key.Name || sub.SubmitterKey != key.ID:
		return "", wrong("it is signed by %s, but said to be by %s", key.Name, sub.Submitter)
	case len(s.Nonce) < 16:
		return "", wrong("its nonce is too short to be used once")
	case s.ExpiresAt != 0 && b.hist.submittedAt > s.ExpiresAt:
		return "", wrong("it had expired when the run was admitted")
	}
	return fmt.Sprintf("signed by %s for this plan", key.Name), nil
}

// statement is an in-toto Statement v1.
type statement[P any] struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     P         `json:"predicate"`
}

type subject struct {
	Name   string    `json:"name"`
	Digest digestSet `json:"digest"`
}

type digestSet struct {
	SHA256 string `json:"sha256"`
}

func about(name string, d work.Digest) subject { return subject{name, digestSet{d.Hex()}} }

// approval is what an approver signs.
type approval struct {
	Tenant    work.Tenant `json:"tenant"`
	Run       work.RunID  `json:"run"`
	Gate      work.StepID `json:"gate"`
	PlanHash  work.Digest `json:"planHash"`
	Decision  string      `json:"decision"`
	Reason    string      `json:"reason"`
	Ticket    string      `json:"ticket,omitempty"`
	DecidedAt work.Time   `json:"decidedAt"`
	Approver  string      `json:"approver"`
	Nonce     string      `json:"nonce"`
	Token     string      `json:"token,omitempty"`
}

// checkApprovals verifies every decision at every gate: who signed it, for what, and whether he might.
func (b *bundle) checkApprovals() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know who decided")
	}
	used := map[string]bool{}
	n := 0
	nonces := map[string]bool{}
	var names []string
	for _, s := range b.hist.steps {
		for i, a := range s.answers {
			name := fmt.Sprintf("approvals/%s.%d.dsse.json", stepFile(s.id), i+1)
			used[name] = true
			if err := b.checkAnswer(s, i, name, nonces); err != nil {
				return "", err
			}
			n++
			names = append(names, a.Approver)
		}
	}
	if err := b.onlyThese("approvals/", used); err != nil {
		return "", err
	}
	if n == 0 {
		return "nobody was asked", nil
	}
	return fmt.Sprintf("%d signed for this plan, run and gate by %s", n, strings.Join(names, ", ")), nil
}

func (b *bundle) checkAnswer(s *step, i int, name string, nonces map[string]bool) error {
	d := s.answers[i]
	raw, err := b.file(name)
	if err != nil {
		return err
	}
	if string(raw) != string(d.Statement) {
		return wrong("%s is not the statement in the history", name)
	}
	doc, key, err := b.openAnswer(name, raw, &d)
	if err != nil {
		return err
	}
	p := doc.Predicate
	switch {
	case doc.Type != "https://in-toto.io/Statement/v1" || doc.PredicateType != "https://orrery.example/attestation/approval/v1":
		return wrong("%s is no approval", name)
	case !slices.Equal(doc.Subject, []subject{about("plan.json", b.manifest.PlanHash)}) || p.PlanHash != b.manifest.PlanHash || d.PlanHash != p.PlanHash:
		return wrong("%s is about another plan", name)
	case p.Tenant != b.manifest.Tenant || p.Run != b.manifest.RunID || p.Gate != s.id || d.Gate != s.id:
		return wrong("%s is about gate %q of run %s of tenant %s", name, p.Gate, p.Run, p.Tenant)
	case p.Decision != d.Decision.Decision || p.Decision != "approved" && p.Decision != "rejected" || p.Reason != d.Reason ||
		p.Ticket != d.Ticket || p.DecidedAt != d.DecidedAt:
		return wrong("%s says something else than the history", name)
	case p.Approver != key.Name || d.Approver != key.Name || d.Key != key.ID:
		return wrong("%s is signed by %s, but said to be by %s", name, key.Name, d.Approver)
	case p.DecidedAt >= s.waiting.Expires:
		return wrong("%s was decided after the gate expired", name)
	case len(p.Nonce) < 16 || nonces[key.ID+p.Nonce]:
		return wrong("the nonce of %s is too short or used twice", name)
	}
	nonces[key.ID+p.Nonce] = true
	spec := s.spec.Approval
	if len(spec.Approvers) > 0 && !slices.Contains(spec.Approvers, key.Name) {
		return wrong("%s is not among those who may decide at gate %q", key.Name, s.id)
	}
	sub := b.hist.submitted
	if !spec.AllowSubmitter && p.Decision == "approved" && (key.Name == sub.Submitter || key.ID == sub.SubmitterKey) {
		return wrong("%s submitted the run and approved it at gate %q", key.Name, s.id)
	}
	for _, earlier := range s.answers[:i] {
		if earlier.Approver == key.Name || earlier.Key == key.ID {
			return wrong("%s decided twice at gate %q", key.Name, s.id)
		}
	}
	return nil
}

// openAnswer opens a decision: signed by the approver, or by the attestor around a token that the approver has signed.
func (b *bundle) openAnswer(name string, raw []byte, d *answer) (statement[approval], keyring.Key, error) {
	var doc statement[approval]
	payload, key, err := b.open(name, raw, "application/vnd.in-toto+json", keyring.Approve, d.DecidedAt)
	witnessed := false
	if fault.CodeOf(err) == fault.Untrusted {
		var none error
		payload, _, none = b.open(name, raw, "application/vnd.in-toto+json", keyring.Attest, d.at)
		witnessed = none == nil
	}
	if err != nil && !witnessed {
		return doc, key, err
	}
	unsigned := err
	if err := strict(name, payload, &doc); err != nil {
		return doc, key, err
	}
	p := doc.Predicate
	switch {
	case p.Token == "":
		return doc, key, unsigned // nil, or that the service decided by itself
	case !witnessed:
		return doc, key, wrong("%s is not signed by who took the token in it", name)
	}
	said, id, err := jwt.Verify(p.Token, b.trust.For(keyring.Approve))
	if err != nil {
		return doc, key, fault.Wrap(fault.CodeOf(err), err, "the token in %s", name)
	}
	key, _ = b.trust.Find(id)
	if err := b.counts(key, said.SignedBy()); err != nil {
		return doc, key, fault.Wrap(fault.Untrusted, err, "the token in %s", name)
	}
	same := said.Run == p.Run && said.Gate == p.Gate && said.PlanHash == p.PlanHash && said.Decision == p.Decision && said.Reason == p.Reason &&
		said.Ticket == p.Ticket && said.IssuedAt() == p.DecidedAt && said.Approver == p.Approver && said.ID == p.Nonce &&
		(said.Tenant == "" || said.Tenant == p.Tenant)
	if !same {
		return doc, key, wrong("%s says something else than the token in it", name)
	}
	return doc, key, said.Counts(d.at)
}

// checkPolicies holds the files of decisions to the history. That they are decisions of the plan's rules was followed there.
func (b *bundle) checkPolicies() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know what was decided")
	}
	used := map[string]bool{}
	var engines []string
	allowed := 0
	for _, s := range b.hist.steps {
		for i, p := range s.policies {
			name := fmt.Sprintf("policy/%s.%d.json", stepFile(s.id), i+1)
			used[name] = true
			raw, err := b.file(name)
			if err != nil {
				return "", err
			}
			if string(raw) != string(p.raw) {
				return "", wrong("%s is not the decision in the history", name)
			}
			if err := judgeAgain(s.spec.Policy, &p.PolicyData); err != nil {
				return "", fault.Wrap(fault.Unverified, err, "%s", name)
			}
			if p.Engine != nil {
				engines = append(engines, by(p.Engine))
			}
			if p.Allowed {
				allowed++
			}
		}
	}
	if err := b.onlyThese("policy/", used); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s, %d allowed", work.Count(len(used), "decision"), allowed)
	if len(engines) < len(used) || len(used) == 0 {
		text += "; the rules give the same answers again"
	}
	if len(engines) > 0 {
		text += "; answers as recorded: " + strings.Join(engines, "; ")
	}
	return text, nil
}

// onlyThese sees that a folder holds nothing that no check has looked at.
func (b *bundle) onlyThese(folder string, used map[string]bool) error {
	for name := range b.files {
		if strings.HasPrefix(name, folder) && !used[name] {
			return wrong("%s belongs to nothing in the history", name)
		}
	}
	return nil
}
