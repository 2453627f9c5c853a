package linux

import (
	"io"
	"os"
	"sync"
)

// outputChunk is the most that one Write of a step's output gets.
const outputChunk = 32 << 10

// sink passes a step's output on, up to a limit over both streams. It always takes everything, so that a step never blocks on
// a full limit or a broken reader.
type sink struct {
	mu      sync.Mutex
	left    int64
	dropped int64
	err     error // the first failure of a writer
	pumps   sync.WaitGroup
	buffers *sync.Pool
}

// pump copies from a pipe until its last writer is gone.
func (s *sink) pump(from *os.File, to io.Writer) {
	s.pumps.Go(func() {
		defer from.Close()
		kept, _ := s.buffers.Get().(*[]byte)
		if kept == nil {
			fresh := make([]byte, outputChunk)
			kept = &fresh
		}
		defer s.buffers.Put(kept)
		buf := *kept
		for {
			n, err := from.Read(buf)
			if n > 0 {
				s.take(buf[:n], to)
			}
			if err != nil {
				return
			}
		}
	})
}

func (s *sink) take(chunk []byte, to io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if over := int64(len(chunk)) - s.left; over > 0 {
		s.dropped += over
		chunk = chunk[:s.left]
	}
	s.left -= int64(len(chunk))
	if len(chunk) == 0 || to == nil || s.err != nil {
		return
	}
	_, s.err = to.Write(chunk)
}

// feed copies a reader into the step's input. A step that closes its input early is no error, and nobody waits for the reader.
func feed(to *os.File, from io.Reader) {
	go func() {
		defer to.Close()
		_, _ = io.Copy(to, from)
	}()
}

// result returns what was dropped and the first error of a writer.
func (s *sink) result() (int64, error) {
	s.pumps.Wait()
	return s.dropped, s.err
}
