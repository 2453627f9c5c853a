package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Hash returns what the event's Hash must be, with the Prev it has. Error: fault.Invalid for what has no canonical form.
func Hash(e *work.Event) (work.Digest, error) {
	digest, _, err := hash(nil, e)
	return digest, err
}

// Link sets Prev and Hash, so that e follows the event whose hash is prev ("" for the first).
func Link(prev work.Digest, e *work.Event) error {
	e.Prev = prev
	digest, err := Hash(e)
	e.Hash = digest
	return err
}

func hash(buffer []byte, e *work.Event) (work.Digest, []byte, error) {
	bare := *e
	bare.Hash = ""
	buffer, err := Encode(buffer[:0], &bare)
	if err != nil {
		return "", buffer, err
	}
	sum := sha256.Sum256(buffer)
	var text [7 + 2*sha256.Size]byte
	copy(text[:], "sha256:")
	hex.Encode(text[7:], sum[:])
	return work.Digest(text[:]), buffer, nil
}

// Chain is the state of one run's chain after some events. The zero value stands before the first event. It is not safe
// for concurrent use.
type Chain struct {
	tenant work.Tenant
	run    work.RunID
	seq    int64
	head   work.Digest
	buffer []byte
}

// Resume returns the chain of a run that has seq events, of which the last has the hash head.
func Resume(tenant work.Tenant, run work.RunID, seq int64, head work.Digest) *Chain {
	return &Chain{tenant: tenant, run: run, seq: seq, head: head}
}

// Head returns the hash of the last event, "" before the first.
func (c *Chain) Head() work.Digest { return c.head }

// Len returns how many events the chain has.
func (c *Chain) Len() int64 { return c.seq }

// Append makes e the next event: it sets Seq, Prev and Hash. Errors: fault.Invalid for an event of another run or tenant
// and for what has no canonical form; the chain stays as it is then.
func (c *Chain) Append(e *work.Event) error {
	if err := c.belongs(e); err != nil {
		return err
	}
	e.Seq, e.Prev = c.seq+1, c.head
	digest, buffer, err := hash(c.buffer, e)
	c.buffer = buffer
	if err != nil {
		return err
	}
	e.Hash = digest
	c.advance(e)
	return nil
}

// Check verifies that e is the next event. Error: fault.Unverified, saying what is wrong with it.
func (c *Chain) Check(e *work.Event) error {
	if err := c.belongs(e); err != nil {
		return fault.New(fault.Unverified, "%s", err.Error())
	}
	if e.Seq != c.seq+1 {
		return fault.New(fault.Unverified, "event %d stands where event %d belongs", e.Seq, c.seq+1)
	}
	if e.Prev != c.head {
		return fault.New(fault.Unverified, "event %d names %s as the hash before it, not %s", e.Seq, e.Prev.Short(), c.head.Short())
	}
	digest, buffer, err := hash(c.buffer, e)
	c.buffer = buffer
	if err != nil {
		return fault.New(fault.Unverified, "event %d: %s", e.Seq, err.Error())
	}
	if e.Hash != digest {
		return fault.New(fault.Unverified, "event %d hashes to %s, not %s as it says", e.Seq, digest.Short(), e.Hash.Short())
	}
	c.advance(e)
	return nil
}

func (c *Chain) belongs(e *work.Event) error {
	switch {
	case e.Tenant == "" || e.Run == "":
		return fault.New(fault.Invalid, "event %d has no tenant or no run", e.Seq)
	case c.run != "" && (e.Tenant != c.tenant || e.Run != c.run):
		return fault.New(fault.Invalid, "event %d belongs to run %s of tenant %s, not %s of %s", e.Seq, e.Run, e.Tenant, c.run, c.tenant)
	default:
		return nil
	}
}

func (c *Chain) advance(e *work.Event) {
	c.tenant, c.run, c.seq, c.head = e.Tenant, e.Run, e.Seq, e.Hash
}

// VerifyChain checks a whole history from its first event on and returns the last hash and the number of events. After an
// error both describe the part before it; the error is that of the source, or fault.Unverified naming the first bad event.
func VerifyChain(events iter.Seq2[work.Event, error]) (head work.Digest, n int64, err error) {
	var c Chain
	for e, err := range events {
		if err == nil {
			err = c.Check(&e)
		}
		if err != nil {
			return c.head, c.seq, err
		}
	}
	return c.head, c.seq, nil
}
