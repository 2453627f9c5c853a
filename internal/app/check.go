package app

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Bounds of what counts as well.
const (
	slowCommit  = 50 * time.Millisecond
	littleSpace = 1 << 30 // bytes
	soonEnds    = 14 * 24 * time.Hour
	longWait    = 10 * time.Minute
	manySealed  = 1000 // runs that have ended and wait for the log
)

// checks tries what a tenant's runs need of this server, by doing it.
func (s *Server) checks(ctx context.Context, tenant work.Tenant) []api.Check {
	out := []api.Check{s.checkStore(ctx), s.checkBlobs(ctx, tenant), s.checkDisk(), s.checkKeys(ctx, tenant)}
	if s.opts.CertFile != "" {
		out = append(out, s.checkCertificate())
	}
	return append(out, s.checkWork(ctx, tenant)...)
}

func passed(name, format string, args ...any) api.Check {
	return api.Check{Check: name, Result: "pass", Detail: fmt.Sprintf(format, args...)}
}

// lacking is a check that did not pass. The message of an error is for the operator's log; a tenant hears its code.
func (s *Server) lacking(name string, err error, fix string) api.Check {
	s.Log.Error("a check failed", "check", name, "error", err)
	return api.Check{Check: name, Result: "fail", Detail: "it answers " + string(fault.CodeOf(err)) + "; the server's log says more", Fix: fix}
}

// checkStore makes one durable commit.
func (s *Server) checkStore(ctx context.Context) api.Check {
	const name = "store"
	const kind, id = "check", "commit"
	old, err := s.Store.Record(ctx, store.Installation, kind, id)
	if err != nil && fault.CodeOf(err) != fault.NotFound {
		return s.lacking(name, err, "see docs/runbooks/store-down.md")
	}
	begin := time.Now()
	err = s.Store.Change(ctx, store.RecordChange{Record: store.Record{
		Tenant: store.Installation, Kind: kind, ID: id, Version: old.Version, Doc: []byte("{}"),
	}})
	took := time.Since(begin)
	if fault.CodeOf(err) == fault.Conflict { // somebody else checks at the same moment, and it was committed
		err = nil
	}
	if err != nil {
		return s.lacking(name, err, "see docs/runbooks/store-down.md")
	}
	c := passed(name, "a durable commit takes %s", took.Round(10*time.Microsecond))
	if took > slowCommit {
		c.Result, c.Fix = "warn", "every commit waits this long: look at the disk and the load of the database"
	}
	return c
}

// checkBlobs stores some bytes and reads them back.
func (s *Server) checkBlobs(ctx context.Context, tenant work.Tenant) api.Check {
	const name = "files"
	text := []byte("orrery check")
	digest, _, err := s.Blobs.Put(ctx, tenant, bytes.NewReader(text))
	if err != nil {
		return s.lacking(name, err, "see docs/runbooks/disk-full.md")
	}
	r, _, err := s.Blobs.Open(ctx, tenant, digest)
	if err != nil {
		return s.lacking(name, err, "")
	}
	defer r.Close()
	if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, text) {
		return s.lacking(name, err, "")
	}
	return passed(name, "written and read back")
}

func (s *Server) checkDisk() api.Check {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.Dir, &st); err != nil {
		return s.lacking("disk", err, "")
	}
	free := int64(st.Bavail) * st.Bsize
	c := passed("disk", "%d MiB free at the data folder", free>>20)
	if free < littleSpace {
		c.Result, c.Fix = "warn", "less than 1 GiB is free; see docs/runbooks/disk-full.md"
	}
	return c
}

func (s *Server) checkKeys(ctx context.Context, tenant work.Tenant) api.Check {
	sp, err := s.space(ctx, tenant)
	if err != nil {
		return s.lacking("keys", err, "restore keyring.json from a backup")
	}
	t, err := sp.Keys.Trust()
	if err != nil {
		return s.lacking("keys", err, "restore keyring.json from a backup")
	}
	return passed("keys", "%d trusted", len(t.Keys))
}

func (s *Server) checkCertificate() api.Check {
	const name = "certificate"
	raw, err := os.ReadFile(s.opts.CertFile)
	if err != nil {
		return s.lacking(name, err, "")
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return s.lacking(name, fault.New(fault.Invalid, "%s holds no certificate", s.opts.CertFile), "")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return s.lacking(name, err, "")
	}
	c := passed(name, "ends %s", cert.NotAfter.UTC().Format(time.DateOnly))
	if time.Until(cert.NotAfter) < soonEnds {
		c.Result, c.Fix = "warn", "renew it and restart the server"
	}
	return c
}

// checkWork says whether somebody works, and what waits for a person.
func (s *Server) checkWork(ctx context.Context, tenant work.Tenant) []api.Check {
	all, err := s.Store.Census(ctx)
	if err != nil {
		return []api.Check{s.lacking("queue", err, "")}
	}
	var n store.Census
	var shared int64 // workers that work for every tenant
	for _, c := range all {
		switch c.Tenant {
		case tenant:
			n = c
		case store.Installation:
			shared = c.Workers
		}
	}
	n.Workers += shared
	workers := passed("workers", "%d connected, %d steps under way", n.Workers, n.Leases)
	queue := passed("queue", "%d waiting", n.Queued)
	if n.Workers == 0 {
		workers.Result, workers.Fix = "warn", "nobody runs steps: start orrery worker"
		if n.Queued > 0 {
			workers.Result = "fail"
		}
	}
	if n.Queued > 0 && Now().Sub(n.Oldest) > longWait {
		queue.Result, queue.Detail = "warn", fmt.Sprintf("%d waiting, the oldest since %s", n.Queued, n.Oldest)
		queue.Fix = "orrery why RUN; docs/runbooks/run-stuck.md"
	}
	dead := passed("dead letters", "%d", n.DeadLetters)
	if n.DeadLetters > 0 {
		dead.Result, dead.Fix = "warn", "orrery deadletter list"
	}
	log := passed("log", "%d ended runs wait to be sealed", n.Unsealed)
	if n.Unsealed > manySealed {
		log.Result, log.Fix = "warn", "the server seals slower than runs end: look at its log"
	}
	return []api.Check{workers, queue, dead, log}
}
