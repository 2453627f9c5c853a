package httpapi

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"

	"orrery.example/orrery/internal/fault"
)

// inMemory is how much of a body is held in memory; what is longer goes through a file.
const inMemory = 1 << 20

// spooled is a body that can be read after its digest is known.
type spooled struct {
	memory []byte
	file   *os.File // nil for one in memory
	digest [sha256.Size]byte
}

func spool(r io.Reader) (*spooled, error) {
	sum := sha256.New()
	r = io.TeeReader(r, sum)
	head, err := io.ReadAll(io.LimitReader(r, inMemory+1))
	if err != nil {
		return nil, bodyError(err)
	}
	s := &spooled{memory: head}
	if len(head) > inMemory {
		if s.file, err = os.CreateTemp("", "orrery-body-"); err != nil {
			return nil, fault.Wrap(fault.Exhausted, err, "keep the body of a request")
		}
		if _, err = io.Copy(s.file, io.MultiReader(bytes.NewReader(head), r)); err != nil {
			s.close()
			return nil, bodyError(err)
		}
		s.memory = nil
	}
	sum.Sum(s.digest[:0])
	return s, nil
}

func (s *spooled) reader() io.ReadCloser {
	if s.file == nil {
		return io.NopCloser(bytes.NewReader(s.memory))
	}
	size, err := s.file.Seek(0, io.SeekEnd)
	if err != nil {
		size = 0
	}
	return io.NopCloser(io.NewSectionReader(s.file, 0, size))
}

func (s *spooled) close() {
	if s.file != nil {
		_ = errors.Join(s.file.Close(), os.Remove(s.file.Name())) // a temporary file
	}
}
