package rest

import (
	"net/http"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
)

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
