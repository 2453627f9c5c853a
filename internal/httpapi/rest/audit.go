package rest

import (
	"bytes"
	"net/http"
	"strconv"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (s *service) auditRoutes() []httpapi.Route {
	list := get("/api/v1/audit", "getAudit", "audit", "Read who did what in the tenant, in order; as NDJSON by Accept", access.Admin, api.AuditList{}, s.getAudit, httpapi.PageParams(
		httpapi.Param{Name: "from", Type: "integer", Summary: "The number of the first entry, from 1", Example: "1"})...)
	list.Stream = ndjson
	bundle := get("/api/v1/audit/bundle", "exportAudit", "audit", "Seal the audit stream in the tenant's log and download it: one tar that anybody can verify offline", access.Admin, nil, s.exportAudit)
	bundle.Stream = "application/x-tar"
	return []httpapi.Route{
		list,
		bundle,
		get("/api/v1/audit/verification", "verifyAudit", "audit", "Check the hash chain of the audit stream from its first entry on", access.Admin, api.AuditVerdict{}, s.verifyAudit),
	}
}

func (s *service) exportAudit(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := sp.Attest.ExportAudit(r.Context(), c.Tenant, &out); err != nil {
		return err
	}
	return download(w, r, "application/x-tar", string(canonical.Digest(out.Bytes())), &out, int64(out.Len()))
}

func (s *service) getAudit(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "audit")
	if err != nil {
		return err
	}
	from, err := position(r, page)
	if err != nil {
		return err
	}
	read := func(from int64, limit int) ([]work.Event, error) {
		return s.Store.Events(r.Context(), c.Tenant, store.AuditStream, from, limit)
	}
	if wants(r, ndjson) {
		return inLines(w, func(line func(any) error) error {
			return eachOf(from, read, func(e *work.Event) error { return line(e) })
		})
	}
	entries, err := read(from, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.AuditList
	if len(entries) > page.Limit {
		out.NextPageToken = page.Next(strconv.FormatInt(entries[page.Limit].Seq, 10))
		entries = entries[:page.Limit]
	}
	if out.Items, err = recastAll[api.AuditEntry](entries); err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

// verifyAudit checks the whole chain, and that it ends where the store says it does: a stream that was cut off is not whole.
func (s *service) verifyAudit(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	end, err := s.Store.AuditEnd(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	head, n, err := ledger.VerifyChain(func(yield func(work.Event, error) bool) {
		const page = 1000
		for from := int64(1); from <= end.Seq; {
			entries, err := s.Store.Events(r.Context(), c.Tenant, store.AuditStream, from, int(min(page, end.Seq-from+1)))
			if err != nil {
				yield(work.Event{}, err)
				return
			}
			if len(entries) == 0 {
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			from += int64(len(entries))
		}
	})
	out := api.AuditVerdict{Valid: true, Entries: n, Head: string(head)}
	switch {
	case fault.CodeOf(err) == fault.Unverified:
		out.Valid, out.Problem = false, err.Error()
	case err != nil:
		return err
	case n != end.Seq || head != end.Head:
		out.Valid, out.Problem = false, "the stream does not end where it ended"
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) debugRoutes() []httpapi.Route {
	bundle := get("/api/v1/admin/debug-bundle", "getDebugBundle", "server",
		"Read what helps to find out what is wrong with the server, as tar and gzip, as an administrator of the installation", access.Admin, nil, s.debugBundle)
	bundle.Stream, bundle.NoTenant = "application/gzip", true
	return []httpapi.Route{bundle}
}

func (s *service) debugBundle(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	if c.Principal.Tenant != "" || s.Debug == nil {
		return fault.New(fault.Denied, "only an administrator of the installation reads what concerns every tenant")
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("Content-Disposition", `attachment; filename="orrery-debug.tar.gz"`)
	return s.Debug(r.Context(), w)
}
