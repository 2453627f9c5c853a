// Package s3 keeps blobs in a bucket of an S3-compatible server.
//
// An object is one generation of a blob: tenant/digest/when-and-who. Objects are written once and never changed. Whoever needs a blob
// that has not been used for a while writes a new generation, a copy made by the server, and the collector removes old ones only.
// So the two cannot meet on one key: S3 has no way to delete an object on the condition that nobody has asked for it meanwhile.
package s3

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Options say where the bucket is.
type Options struct {
	Endpoint  string // host and port
	Secure    bool   // HTTPS
	Region    string // "" to ask the server
	Bucket    string // made when it is not there
	Prefix    string // before every key, for a bucket that others use as well
	AccessKey string
	SecretKey string

	// Spool is the folder for blobs on their way that are too large for memory, "" for that of the system.
	Spool string
}

// Store keeps blobs in one bucket.
type Store struct {
	// Stored is told of bytes that are there and were not; nil tells nobody. It is set before the first use.
	Stored func(tenant work.Tenant, bytes int64)

	client *minio.Client
	o      Options
}

var _ blob.Store = (*Store)(nil)

// renewAfter is how old the newest generation of a blob gets before somebody who needs it writes another. Collect leaves everything
// alone for that much longer.
const renewAfter = time.Hour

// Open connects and makes the bucket. Errors: fault.Invalid, fault.Denied, fault.Unavailable.
func Open(ctx context.Context, o Options) (*Store, error) {
	client, err := minio.New(o.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Secure: o.Secure, Region: o.Region, TrailingHeaders: true,
	})
	if err != nil {
		return nil, fault.New(fault.Invalid, "the blob server: %w", err)
	}
	s := &Store{client: client, o: o}
	there, err := client.BucketExists(ctx, o.Bucket)
	if err != nil {
		return nil, classify(err)
	}
	if there {
		return s, nil
	}
	if err := client.MakeBucket(ctx, o.Bucket, minio.MakeBucketOptions{Region: o.Region}); err != nil {
		// Another server may have made it just now.
		if there, again := client.BucketExists(ctx, o.Bucket); again != nil || !there {
			return nil, classify(err)
		}
	}
	return s, nil
}

// tenant is the beginning of a tenant's keys. It is spelled so that no name leads into another's.
func (s *Store) tenant(tenant work.Tenant) (string, error) {
	if tenant == "" {
		return "", fault.New(fault.TenantRequired, "blobs belong to a tenant")
	}
	return path.Join(s.o.Prefix, hex.EncodeToString([]byte(tenant))) + "/", nil
}

// folder is the beginning of the keys of a blob's generations.
func (s *Store) folder(tenant work.Tenant, digest work.Digest) (string, error) {
	of, err := s.tenant(tenant)
	if err != nil {
		return "", err
	}
	d, err := work.ParseDigest(string(digest))
	if err != nil {
		return "", fault.New(fault.Invalid, "%v", err)
	}
	return of + d.Hex() + "/", nil
}

// generation is one object of a blob.
type generation struct {
	key  string
	size int64
	made time.Time
}

// generations returns the objects of a blob, the newest first.
func (s *Store) generations(ctx context.Context, folder string) ([]generation, error) {
	var out []generation
	for o, err := range s.objects(ctx, folder) {
		if err != nil {
			return nil, err
		}
		g := generation{o.Key, o.Size, o.LastModified}
		if len(out) > 0 && g.made.After(out[0].made) {
			out = append([]generation{g}, out...)
		} else {
			out = append(out, g)
		}
	}
	return out, nil
}

// objects lists what begins with a prefix, in the order of the keys.
func (s *Store) objects(ctx context.Context, prefix string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := ctx.Err(); err != nil {
			yield(minio.ObjectInfo{}, err)
			return
		}
		for o := range s.client.ListObjects(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if !yield(o, classify(o.Err)) || o.Err != nil {
				return
			}
		}
	}
}

// newKey names a generation that nobody else writes.
func newKey(folder string) string {
	return fmt.Sprintf("%s%013x-%s", folder, time.Now().UnixMilli(), rand.Text()[:10])
}

// renew makes a blob young again when it is there. It reports whether it is.
func (s *Store) renew(ctx context.Context, folder string) (bool, error) {
	have, err := s.generations(ctx, folder)
	if err != nil || len(have) == 0 {
		return false, err
	}
	if time.Since(have[0].made) < renewAfter {
		return true, nil
	}
	_, err = s.client.ComposeObject(ctx, minio.CopyDestOptions{Bucket: s.o.Bucket, Object: newKey(folder)},
		minio.CopySrcOptions{Bucket: s.o.Bucket, Object: have[0].key})
	if fault.CodeOf(classify(err)) == fault.NotFound {
		return false, nil // it was collected meanwhile
	}
	return err == nil, classify(err)
}

// Has implements blob.Store.
func (s *Store) Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error) {
	folder, err := s.folder(tenant, digest)
	if err != nil {
		return false, err
	}
	return s.renew(ctx, folder)
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error) {
	folder, err := s.folder(tenant, digest)
	if err != nil {
		return nil, 0, err
	}
	for range 3 { // the collector may take a generation between the list and the question, after a newer one was written
		have, err := s.generations(ctx, folder)
		if err != nil {
			return nil, 0, err
		}
		if len(have) == 0 {
			break
		}
		o, err := s.client.GetObject(ctx, s.o.Bucket, have[0].key, minio.GetObjectOptions{})
		if err != nil {
			return nil, 0, classify(err)
		}
		info, err := o.Stat()
		if err == nil {
			return check(o, digest), info.Size, nil
		}
		_ = o.Close() // nothing was read
		if err = classify(err); fault.CodeOf(err) != fault.NotFound {
			return nil, 0, err
		}
	}
	return nil, 0, fault.New(fault.NotFound, "there is nothing with digest %s", digest)
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, tenant work.Tenant, digest work.Digest) error {
	folder, err := s.folder(tenant, digest)
	if err != nil {
		return err
	}
	have, err := s.generations(ctx, folder)
	if err != nil {
		return err
	}
	return s.remove(ctx, have)
}

func (s *Store) remove(ctx context.Context, which []generation) error {
	for _, g := range which {
		if err := classify(s.client.RemoveObject(ctx, s.o.Bucket, g.key, minio.RemoveObjectOptions{})); err != nil && fault.CodeOf(err) != fault.NotFound {
			return err
		}
	}
	return nil
}

// listed is a blob with all its generations.
type listed struct {
	blob.Entry
	folder string
	all    []generation
}

// list returns blobs with their generations, which stand next to each other in the list of a bucket.
func (s *Store) list(ctx context.Context, tenant work.Tenant) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		of, err := s.tenant(tenant)
		if err != nil {
			yield(listed{}, err)
			return
		}
		var at listed
		for o, err := range s.objects(ctx, of) {
			if err != nil {
				yield(listed{}, err)
				return
			}
			name, _, ok := strings.Cut(strings.TrimPrefix(o.Key, of), "/")
			digest, err := work.ParseDigest("sha256:" + name)
			if !ok || err != nil {
				continue // not ours
			}
			if at.Digest != digest {
				if at.Digest != "" && !yield(at, nil) {
					return
				}
				at = listed{Entry: blob.Entry{Digest: digest, Size: o.Size}, folder: of + name + "/"}
			}
			at.all = append(at.all, generation{o.Key, o.Size, o.LastModified})
			if o.LastModified.After(at.Used) {
				at.Used = o.LastModified
			}
		}
		if at.Digest != "" {
			yield(at, nil)
		}
	}
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, tenant work.Tenant) iter.Seq2[blob.Entry, error] {
	return func(yield func(blob.Entry, error) bool) {
		for l, err := range s.list(ctx, tenant) {
			if !yield(l.Entry, err) {
				return
			}
		}
	}
}

// Collect implements blob.Store. Generations behind the newest one are removed as well when they are old; they do not count.
func (s *Store) Collect(ctx context.Context, tenant work.Tenant, before time.Time, keep func(work.Digest) bool) (count, bytes int64, err error) {
	limit := before.Add(-renewAfter)
	for l, err := range s.list(ctx, tenant) {
		if err != nil {
			return count, bytes, err
		}
		var old []generation
		for _, g := range l.all {
			if g.made.Before(limit) {
				old = append(old, g)
			}
		}
		if len(old) == 0 || len(old) == len(l.all) && keep(l.Digest) {
			continue
		}
		now, err := s.generations(ctx, l.folder)
		if err != nil {
			return count, bytes, err
		}
		if err := s.remove(ctx, old); err != nil {
			return count, bytes, err
		}
		if len(now) <= len(old) { // else somebody has written a new one
			count++
			bytes += l.Size
		}
	}
	return count, bytes, nil
}

// classify gives an error of the server its code.
func classify(err error) error {
	var known *fault.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return fault.New(fault.Interrupted, "the blob server: %w", err)
	}
	e := minio.ToErrorResponse(err)
	switch {
	case e.Code == minio.NoSuchKey || e.StatusCode == 404 && e.Code != minio.NoSuchBucket:
		return fault.New(fault.NotFound, "the blob server: %w", err)
	case e.Code == minio.NoSuchBucket:
		return fault.New(fault.Internal, "the bucket is gone: %w", err)
	case e.StatusCode == 507 || e.Code == "XMinioStorageFull" || e.Code == "QuotaExceeded":
		return fault.New(fault.Exhausted, "the blob server has no room: %w", err)
	case e.StatusCode == 401 || e.StatusCode == 403:
		return fault.New(fault.Denied, "the blob server refuses: %w", err).WithHint("check the access key and what it may do")
	case e.StatusCode == 400:
		return fault.New(fault.Invalid, "the blob server: %w", err)
	}
	return fault.New(fault.Unavailable, "the blob server: %w", err)
}
