package app

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"orrery.example/orrery/internal/backup"
	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/blob/s3"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/postgres"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/wake"
	wakenats "orrery.example/orrery/internal/wake/nats"
	wakepostgres "orrery.example/orrery/internal/wake/postgres"
	wakevalkey "orrery.example/orrery/internal/wake/valkey"
	"orrery.example/orrery/internal/work"
)

// openStore opens the store that the options name: the data folder, or a PostgreSQL that several servers share and tell each other of
// commits through. The returned function closes it.
func openStore(ctx context.Context, o Options) (*kernel.Store, func() error, error) {
	if o.Store == "" {
		var driver *sqlite.Driver
		var err error
		if o.ReadOnly {
			driver, err = sqlite.OpenReadOnly(o.Dir)
		} else {
			driver, err = sqlite.Open(ctx, o.Dir, sqlite.Options{})
		}
		if err != nil {
			return nil, nil, err
		}
		s := kernel.New(driver, o.kernel(kernel.Options{Now: Now, Log: o.Log}))
		return s, s.Close, nil
	}
	if scheme, _, _ := strings.Cut(o.Store, "://"); scheme != "postgres" && scheme != "postgresql" {
		return nil, nil, fault.New(fault.Invalid, "a store is the data folder or postgres://…, not %s://", scheme)
	}
	driver, err := postgres.Open(ctx, postgres.Options{URL: o.Store})
	if err != nil {
		return nil, nil, err
	}
	hints, err := openHints(o)
	if err != nil {
		return nil, nil, errors.Join(err, driver.Close())
	}
	s := kernel.New(driver, o.kernel(kernel.Options{Now: Now, Log: o.Log, Announce: hints.Announce}))
	heard := hints.Listen(context.WithoutCancel(ctx))
	go func() {
		for range heard {
			s.Wake()
		}
	}()
	return s, func() error { return errors.Join(hints.Close(), s.Close()) }, nil
}

// kernel adds to the options of a store who hears of its commits.
func (o Options) kernel(k kernel.Options) kernel.Options {
	k = o.Telemetry.kernel(k)
	if told := k.Observe; o.heard != nil {
		k.Observe = func(c kernel.Commit) {
			if told != nil {
				told(c)
			}
			o.heard(c)
		}
	}
	return k
}

// openHints opens what tells servers of each other's commits: the database itself, or a server that is made for messages.
func openHints(o Options) (wake.Hints, error) {
	switch scheme, _, _ := strings.Cut(o.Wake, "://"); scheme {
	case "", "postgres", "postgresql":
		return wakepostgres.Open(wakepostgres.Options{URL: cmp.Or(o.Wake, o.Store), Log: o.Log})
	case "nats", "tls":
		return wakenats.Open(wakenats.Options{URL: o.Wake, Log: o.Log})
	case "valkey", "valkeys", "redis", "rediss":
		return wakevalkey.Open(wakevalkey.Options{URL: o.Wake, Log: o.Log})
	default:
		return nil, fault.New(fault.Invalid, "hints go over postgres://…, nats://… or valkey://…, not %s://", scheme)
	}
}

// openBlobs opens the blobs that the options name: a folder in the data folder, or a bucket as s3://HOST[:PORT]/BUCKET[/PREFIX], with
// ?region=… and, for a server without TLS, ?insecure=true. stored is told of what is there and was not. The keys are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
func openBlobs(ctx context.Context, o Options, stored func(work.Tenant, int64)) (blob.Store, error) {
	if o.Blobs == "" {
		files, err := folder.Open(filepath.Join(o.Dir, "blobs"))
		if err != nil {
			return nil, err
		}
		files.Stored = stored
		return files, nil
	}
	u, err := url.Parse(o.Blobs)
	if err != nil || u.Scheme != "s3" || u.Host == "" {
		return nil, fault.New(fault.Invalid, "blobs are in the data folder or in s3://HOST/BUCKET").WithHint("for example: s3://s3.example.org/orrery?region=eu-1")
	}
	bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if bucket == "" {
		return nil, fault.New(fault.Invalid, "%s names no bucket", o.Blobs)
	}
	if prefix != "" {
		prefix += "/"
	}
	spool := filepath.Join(o.Dir, "uploads")
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "folder for uploads")
	}
	bucketed, err := s3.Open(ctx, s3.Options{
		Endpoint: u.Host, Secure: u.Query().Get("insecure") != "true", Region: u.Query().Get("region"), Bucket: bucket, Prefix: prefix,
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), Spool: spool,
	})
	if err != nil {
		return nil, err
	}
	bucketed.Stored = stored
	return bucketed, nil
}

// Shared reports whether other servers may change the store at the same time.
func (o Options) Shared() bool { return o.Store != "" }

// hushed is a logger for those who name none.
func hushed(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Backup writes a backup of a data folder, also while another process works on it. Error: fault.NotFound without a store in the folder.
func Backup(ctx context.Context, w io.Writer, dir, version string) (err error) {
	driver, err := sqlite.OpenReadOnly(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	release, err := holdBlobs(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	tmp, err := os.MkdirTemp("", "orrery-backup-")
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the backup")
	}
	defer os.RemoveAll(tmp)
	copied := filepath.Join(tmp, backup.StoreFile)
	if err := driver.Backup(ctx, copied); err != nil {
		return err
	}
	return backup.Write(ctx, w, dir, copied, backup.Info{Version: version, Made: Now().Std()})
}

// Restore makes a data folder out of a backup, with a higher incarnation. The folder is there whole or not at all. Errors: fault.Conflict
// for a folder that is not empty, fault.Invalid for what is no backup.
func Restore(ctx context.Context, r io.Reader, dir string) (backup.Info, error) {
	var info backup.Info
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return info, fault.New(fault.Conflict, "%s is not empty", dir).WithHint("name a folder that does not exist yet with --data")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return info, fault.Wrap(fault.Invalid, err, "the data folder")
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".orrery-restore-")
	if err != nil {
		return info, fault.Wrap(fault.Invalid, err, "the data folder")
	}
	defer os.RemoveAll(tmp) // what is left of it when something goes wrong
	if info, err = backup.Read(ctx, r, tmp); err != nil {
		return info, err
	}
	copied := filepath.Join(tmp, backup.StoreFile)
	driver, err := sqlite.Restore(ctx, copied, tmp, sqlite.Options{})
	if err != nil {
		return info, err
	}
	wrong, err := driver.Check(ctx)
	if err = errors.Join(err, driver.Close(), os.Remove(copied)); err != nil {
		return info, err
	}
	if len(wrong) > 0 {
		return info, fault.New(fault.Invalid, "the store in the backup is damaged: %s", wrong[0])
	}
	return info, fault.Wrap(fault.Invalid, os.Rename(tmp, dir), "the data folder")
}

// RaiseIncarnation refuses every lease that was given out before, in a PostgreSQL that comes from a backup, and returns the new number.
func RaiseIncarnation(ctx context.Context, url string) (n int64, err error) {
	driver, err := postgres.Open(ctx, postgres.Options{URL: url})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	err = driver.RaiseIncarnation(ctx)
	return driver.Incarnation(), err
}
