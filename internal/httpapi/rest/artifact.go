package rest

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

func (s *service) listArtifacts(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	out := api.ArtifactList{Items: []api.RunArtifact{}}
	err = sp.Control.EachStep(r.Context(), run, func(row *work.Step) {
		for _, a := range row.Artifacts {
			out.Items = append(out.Items, api.RunArtifact{
				Artifact: api.Artifact{Name: a.Name, Path: a.Path, Digest: string(a.Digest), Size: a.Size, Executable: a.Executable},
				Step:     string(row.ID), Type: "file", Status: "captured", StoredPath: runs + "/" + string(run.ID) + "/artifacts/" + string(a.Digest),
			})
		}
	})
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// getArtifact sends an output of the run; nothing else of the tenant can be read by its digest here.
func (s *service) getArtifact(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	text := r.PathValue("digest")
	if !strings.HasPrefix(text, "sha256:") {
		text = "sha256:" + text
	}
	var found *work.Artifact
	err = sp.Control.EachStep(r.Context(), run, func(row *work.Step) {
		for i := range row.Artifacts {
			if string(row.Artifacts[i].Digest) == text {
				found = &row.Artifacts[i]
			}
		}
	})
	if err != nil {
		return err
	}
	if found == nil {
		return fault.New(fault.NotFound, "run %s has no output %s", run.Name, text)
	}
	body, size, err := s.Blobs.Open(r.Context(), c.Tenant, found.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	return download(w, r, "application/octet-stream", string(found.Digest), body, size)
}

// download sends bytes that never change. What a step wrote is never shown by a browser as a page of this server.
func download(w http.ResponseWriter, r *http.Request, media, tag string, body io.Reader, size int64) error {
	h := w.Header()
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Content-Disposition", "attachment")
	if httpapi.Matches(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", media)
	if size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	w.WriteHeader(http.StatusOK)
	_, err := io.Copy(w, body)
	return err
}
