package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/redact"
	"orrery.example/orrery/internal/work"
)

// rendered is a step with its templates filled in. Its canonical digest names what ran; secret values are not part of it.
type rendered struct {
	Runner  string            `json:"runner"`
	Command []string          `json:"command,omitempty"`
	Script  string            `json:"script,omitempty"`
	File    string            `json:"file,omitempty"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Secrets map[string]string `json:"secrets,omitempty"` // environment name -> reference
	With    map[string]any    `json:"with,omitempty"`
	Dir     string            `json:"dir,omitempty"`
	Files   []placed          `json:"files,omitempty"` // what was put into the workspace, by path

	secrets map[string][]byte
}

type placed struct {
	Path   string      `json:"path"`
	Digest work.Digest `json:"digest"`
}

// render fills in the templates of the step from the values of the lease.
func (a *attempt) render() error {
	scope := a.grant.Bindings.Scope()
	r := rendered{Runner: a.spec.Runner, Script: a.spec.Script, File: a.spec.File, Dir: a.spec.Dir, Secrets: a.grant.Bindings.Secrets}
	var err error
	if r.Command, err = texts(a.spec.Command, scope); err != nil {
		return err
	}
	if r.Args, err = texts(a.spec.Args, scope); err != nil {
		return err
	}
	if len(a.spec.Env) > 0 {
		r.Env = make(map[string]string, len(a.spec.Env))
	}
	for k, v := range a.spec.Env {
		if r.Env[k], err = text(v, scope); err != nil {
			return fmt.Errorf("env %s: %w", k, err)
		}
	}
	if len(a.spec.With) > 0 {
		r.With = make(map[string]any, len(a.spec.With))
	}
	for k, raw := range a.spec.With {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("with %s: %w", k, err)
		}
		if r.With[k], err = deep(v, scope); err != nil {
			return fmt.Errorf("with %s: %w", k, err)
		}
	}
	r.secrets = a.rendered.secrets
	a.rendered = r
	return nil
}

func text(source string, scope expression.Scope) (string, error) {
	t, err := expression.CompileTemplate(source)
	if err != nil {
		return "", err
	}
	return t.String(scope)
}

func texts(sources []string, scope expression.Scope) ([]string, error) {
	out := make([]string, len(sources))
	for i, s := range sources {
		var err error
		if out[i], err = text(s, scope); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// deep renders every string inside a JSON value; one that is a single expression keeps its type.
func deep(v any, scope expression.Scope) (any, error) {
	var err error
	switch x := v.(type) {
	case string:
		t, err := expression.CompileTemplate(x)
		if err != nil {
			return nil, err
		}
		return t.Eval(scope)
	case []any:
		for i := range x {
			if x[i], err = deep(x[i], scope); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range x {
			if x[k], err = deep(x[k], scope); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// unlock resolves the secrets of the step and arms the redactor with them.
func (a *attempt) unlock() error {
	a.rendered.secrets = map[string][]byte{}
	names, folded := map[string][]byte{}, map[string][]byte{}
	for env, ref := range a.grant.Bindings.Secrets {
		if a.w.Secret == nil {
			return fault.New(fault.Denied, "this worker resolves no secrets, and the step needs %s", env)
		}
		if a.graph.Plan.Sealed && strings.HasPrefix(ref, "vault:") {
			return fault.New(fault.Denied, "the pack is sealed, and the secret %s would be fetched over the network", env)
		}
		value, err := a.w.Secret(a.grant.Tenant, ref)
		if err != nil {
			return err
		}
		a.rendered.secrets[env] = value
		names[a.spec.Secrets[env]] = value
		folded[a.spec.Secrets[env]] = bytes.ToLower(value)
	}
	a.redactor, a.folded = redact.New(names), redact.New(folded)
	if weak := a.redactor.TooShort(); len(weak) > 0 {
		return fault.New(fault.Invalid, "secret %s is shorter than %d bytes: it cannot be kept out of the output", weak[0], redact.MinLength).
			WithHint("use a longer secret; what is this short is guessed anyway")
	}
	return nil
}

// cacheKey is the digest of everything that decides what the step produces.
func (a *attempt) cacheKey() (work.Digest, error) {
	key, err := text(a.spec.Cache.Key, a.grant.Bindings.Scope())
	if err != nil {
		return "", err
	}
	digest, _, err := canonical.DigestOf(map[string]any{
		"v": "orrery.cache/v1", "rendered": a.rendered, "outputs": a.spec.Outputs, "sandbox": a.spec.Sandbox, "key": key,
	})
	return digest, err
}

// lookUp ends the attempt with an earlier result when the step may be cached and there is one.
func (a *attempt) lookUp(ctx context.Context) (bool, error) {
	var err error
	if a.report.Rendered, _, err = canonical.DigestOf(a.rendered); err != nil {
		return false, err
	}
	if a.spec.Cache == nil {
		return false, nil
	}
	if a.report.CacheKey, err = a.cacheKey(); err != nil {
		return false, err
	}
	hit, err := a.w.source.Cached(ctx, a.grant.Tenant, a.report.CacheKey)
	if err != nil || hit == nil {
		return false, err
	}
	a.report.State, a.report.Reason = work.Succeeded, work.Reason{Code: work.EndedWell, Message: "result of an earlier attempt"}
	a.report.Outputs, a.report.Artifacts = hit.Outputs, slices.Clone(hit.Artifacts)
	a.report.CachedFrom = &hit.Origin
	return true, nil
}
