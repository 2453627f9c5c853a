package client

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/work"
)

// Upload sends a pack unless the server has it, and returns its digest. The tar is written while it is sent: a large pack needs no second copy.
func (c *Client) Upload(ctx context.Context, p *pack.Pack, digest work.Digest) (string, error) {
	err := c.get(ctx, "/api/v1/packs/"+string(digest), nil, nil)
	if err == nil || fault.CodeOf(err) != fault.NotFound {
		return string(digest), err
	}
	name := p.Path
	if abs, err := filepath.Abs(p.Path); err == nil { // the folder names a pack without a name
		name = filepath.Base(filepath.Dir(abs)) + "/" + p.Base
	}
	var out api.Pack
	err = c.do(ctx, request{
		method: http.MethodPost, path: "/api/v1/packs", query: url.Values{"manifest": {name}}, media: "application/x-tar",
		body: func() (io.Reader, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(writeTar(w, p)) }()
			return r, nil
		},
	}, &out)
	return out.Digest, err
}

func writeTar(w io.Writer, p *pack.Pack) error {
	t := tar.NewWriter(w)
	names := map[string]bool{}
	for _, f := range p.Files {
		names[f.Path] = true
		mode := int64(0o644)
		if f.Executable {
			mode = 0o755
		}
		if err := addFile(t, p.FS, f.Path, mode); err != nil {
			return err
		}
	}
	if !names[p.Base] {
		if err := addFile(t, p.FS, p.Base, 0o644); err != nil {
			return err
		}
	}
	return t.Close()
}

func addFile(t *tar.Writer, from fs.FS, name string, mode int64) error {
	f, err := from.Open(name)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "pack file %s", name)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "pack file %s", name)
	}
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// Inputs returns what a plan was made with, to be planned again elsewhere.
func Inputs(p *work.Plan) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for _, in := range p.Inputs {
		out[in.Name] = in.Value
		if in.Secret != "" {
			raw, err := json.Marshal(in.Secret)
			if err != nil {
				return nil, fault.Wrap(fault.Internal, err, "input %s", in.Name)
			}
			out[in.Name] = raw
		}
	}
	return out, nil
}

// Submit makes a run.
func (c *Client) Submit(ctx context.Context, q api.SubmitRequest) (api.SubmitReply, error) {
	var out api.SubmitReply
	err := c.post(ctx, "/api/v1/runs", q, &out)
	return out, err
}

// Again makes a run of another one. Verb is rerun or retry.
func (c *Client) Again(ctx context.Context, run work.RunID, verb string, q api.RetryRequest) (api.RetryReply, error) {
	var out api.RetryReply
	err := c.post(ctx, at(run, verb), q, &out)
	return out, err
}

// Evidence writes the evidence of an ended run.
func (c *Client) Evidence(ctx context.Context, run work.RunID, w io.Writer) error {
	var whole bytes.Buffer // nothing is written of an answer that breaks off
	if err := c.get(ctx, at(run, "evidence"), nil, &whole); err != nil {
		return err
	}
	_, err := whole.WriteTo(w)
	return err
}

// Audit writes the audit stream of the tenant, sealed and with its proof.
func (c *Client) Audit(ctx context.Context, w io.Writer) error {
	var whole bytes.Buffer
	if err := c.get(ctx, "/api/v1/audit/bundle", nil, &whole); err != nil {
		return err
	}
	_, err := whole.WriteTo(w)
	return err
}

// DebugBundle writes what the server knows of itself.
func (c *Client) DebugBundle(ctx context.Context, w io.Writer) error {
	var whole bytes.Buffer
	if err := c.get(ctx, "/api/v1/admin/debug-bundle", nil, &whole); err != nil {
		return err
	}
	_, err := whole.WriteTo(w)
	return err
}

// Trust returns the keys that the tenant trusts.
func (c *Client) Trust(ctx context.Context) (keyring.Trust, error) {
	var raw bytes.Buffer
	if err := c.get(ctx, "/api/v1/trust-root", nil, &raw); err != nil {
		return keyring.Trust{}, err
	}
	return keyring.ParseTrust(raw.Bytes())
}

// Register trusts a public key for the account of the token.
func (c *Client) Register(ctx context.Context, k keyring.Key) error {
	usage := make([]string, len(k.Usage))
	for i, u := range k.Usage {
		usage[i] = string(u)
	}
	return c.post(ctx, "/api/v1/keys", api.KeyRequest{Public: k.Public, Usage: usage}, nil)
}

// Approve decides at a gate without a signature of one's own: with a token that counts for this one decision and for five minutes, by which
// the server signs.
func (c *Client) Approve(ctx context.Context, run *work.Run, q api.ApproveRequest) error {
	var bound api.NewToken
	err := c.post(ctx, "/api/v1/tokens", api.TokenRequest{
		Scopes: []string{"packs.approve"}, Seconds: 300, Note: "a decision at " + q.Gate,
		Bound: &api.Bound{RunID: string(run.ID), GateID: q.Gate, PlanHash: q.PlanHash},
	}, &bound)
	if err != nil {
		return err
	}
	with := *c
	with.Token = bound.Text
	err = with.post(ctx, at(run.ID, "approve"), q, nil)
	// It counts for nothing else; that it lies around until it expires is still needless.
	return errors.Join(err, c.RevokeToken(ctx, bound.ID))
}
