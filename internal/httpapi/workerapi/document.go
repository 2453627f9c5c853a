package workerapi

import (
	"compress/gzip"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/wire"
	"orrery.example/orrery/internal/work"
)

// documentRequest is the kind under which the store keeps the signed request of a run.
const documentRequest = "request"

func (s *service) plan(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	hash, err := digest(r, "hash")
	if err != nil {
		return err
	}
	raw, err := s.Store.Plan(r.Context(), t, hash)
	if err != nil {
		return err
	}
	return document(w, r, raw)
}

func (s *service) request(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	raw, err := s.Store.Document(r.Context(), t, work.RunID(r.PathValue("run")), documentRequest)
	if err != nil {
		return err
	}
	if raw == nil {
		return fault.New(fault.NotFound, "the run has no signed request")
	}
	return document(w, r, raw)
}

func (s *service) trust(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	if s.Deps.Trust == nil {
		return fault.New(fault.NotFound, "this server gives no keyring")
	}
	raw, err := s.Deps.Trust(r.Context(), t)
	if err != nil {
		return err
	}
	return document(w, r, raw)
}

func (s *service) signatures(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	pack, err := digest(r, "digest")
	if err != nil {
		return err
	}
	out := api.WorkerSignatures{Items: []json.RawMessage{}}
	if s.Deps.Signed != nil {
		if out.Items, err = s.Deps.Signed(r.Context(), t, pack); err != nil {
			return err
		}
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) roots(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	var after int64
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return fault.New(fault.Invalid, "after is the number of a trust root")
		}
	}
	out := api.WorkerTrustRoots{Items: []json.RawMessage{}}
	if s.Deps.Roots != nil {
		const few = 50
		if out.Items, err = s.Deps.Roots(r.Context(), t, after, few); err != nil {
			return err
		}
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) cached(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	key, err := digest(r, "key")
	if err != nil {
		return err
	}
	hit, err := s.Store.Cached(r.Context(), t, key)
	if err != nil {
		return err
	}
	if hit == nil {
		return fault.New(fault.NotFound, "there is no result under this key")
	}
	return httpapi.Reply(w, http.StatusOK, wire.Cached(hit))
}

func digest(r *http.Request, what string) (work.Digest, error) {
	d, err := work.ParseDigest(r.PathValue(what))
	if err != nil {
		return "", fault.New(fault.Invalid, "%v", err)
	}
	return d, nil
}

// compressFrom is the size from which compressing a document is worth its time.
const compressFrom = 8 << 10

// document writes bytes as they are: their digest is what they are known by.
func document(w http.ResponseWriter, r *http.Request, raw []byte) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if len(raw) < compressFrom || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Length", strconv.Itoa(len(raw)))
		_, _ = w.Write(raw) // a client that is gone does not mind
		return nil
	}
	h.Set("Content-Encoding", "gzip")
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "compress a document")
	}
	_, _ = z.Write(raw)
	_ = z.Close()
	return nil
}
