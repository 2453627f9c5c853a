package folder

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// verified gives the bytes of a blob and, instead of its end, an error when they are not what its name says.
type verified struct {
	r    io.ReadCloser
	want work.Digest
	sum  hash.Hash
}

func newVerified(r io.ReadCloser, want work.Digest) *verified {
	return &verified{r: r, want: want, sum: sha256.New()}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want.Hex() {
			return n, fault.New(fault.Unverified, "the bytes stored as %s have digest sha256:%s", v.want, got).
				WithHint("the disk or somebody changed them: restore the folder blobs/ from a backup")
		}
	}
	return n, err
}

func (v *verified) Close() error { return v.r.Close() }
