package seccomp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Program is a compiled filter.
type Program struct {
	Filter []byte // instructions as the kernel reads them, 8 bytes each
	Digest string // "sha256:…" of Filter, for the evidence
}

// Offsets in struct seccomp_data, and the bit that marks a call of the x32 ABI.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
	x32Bit    = 0x40000000
)

// The instructions the compiler uses.
const (
	opLoad     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd      = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEqual    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opAtLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opJump     = unix.BPF_JMP | unix.BPF_JA
	opReturn   = unix.BPF_RET | unix.BPF_K
	maxProgram = 4096
)

type instruction struct {
	op       uint16
	yes, no  uint8
	k        uint32
	jumpsTo  int // a label, for opJump only
	resolved bool
}

type assembler struct {
	code   []instruction
	labels []int // label -> position of the instruction it stands before
}

func (a *assembler) emit(op uint16, k uint32, yes, no uint8) {
	a.code = append(a.code, instruction{op: op, k: k, yes: yes, no: no, resolved: true})
}

func (a *assembler) label() int {
	a.labels = append(a.labels, -1)
	return len(a.labels) - 1
}

func (a *assembler) place(label int) { a.labels[label] = len(a.code) }

// jump is always the 32-bit kind: a conditional jump reaches only 255 instructions, which a profile exceeds.
func (a *assembler) jump(label int) { a.code = append(a.code, instruction{op: opJump, jumpsTo: label}) }

// span is a run of neighbouring call numbers with one fate; it ends where the next begins.
type span struct {
	from  uint32
	fate  uint32 // a return value, when block is -1
	block int    // the label of a conditional rule
}

// Compile returns the filter of a step. It is pure: the same binary gives the same bytes.
func Compile(sockets Sockets) (Program, error) {
	table, err := rules(sockets)
	if err != nil {
		return Program{}, err
	}
	a := &assembler{}
	a.emit(opLoad, offArch, 0, 0)
	a.emit(opEqual, auditArch, 1, 0)
	a.emit(opReturn, kill, 0, 0)
	a.emit(opLoad, offNumber, 0, 0)
	a.emit(opAtLeast, x32Bit, 0, 1)
	a.emit(opReturn, kill, 0, 0)

	spans, blocks := a.spans(table)
	a.tree(spans)
	for _, b := range blocks {
		a.place(b.label)
		a.rule(b.rule)
	}
	return a.program()
}

type block struct {
	label int
	rule  rule
}

// spans lays the number line out as runs of one fate, so that the tree over them is small.
func (a *assembler) spans(table map[uint32]rule) ([]span, []block) {
	var numbers []uint32
	for n := range table {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	spans := []span{{from: 0, fate: deny, block: -1}}
	add := func(s span) {
		last := &spans[len(spans)-1]
		if last.from == s.from {
			*last = s
		} else if last.block != -1 || s.block != -1 || last.fate != s.fate {
			spans = append(spans, s)
		}
	}
	var blocks []block
	for _, n := range numbers {
		r := table[n]
		if len(r.clauses) == 0 {
			add(span{from: n, fate: r.last, block: -1})
		} else {
			b := block{label: a.label(), rule: r}
			blocks = append(blocks, b)
			add(span{from: n, block: b.label})
		}
		if _, next := table[n+1]; !next {
			add(span{from: n + 1, fate: deny, block: -1})
		}
	}
	return spans, blocks
}

// tree emits a binary search for the call number, which is in the accumulator.
func (a *assembler) tree(spans []span) {
	if len(spans) == 1 {
		if spans[0].block >= 0 {
			a.jump(spans[0].block)
		} else {
			a.emit(opReturn, spans[0].fate, 0, 0)
		}
		return
	}
	middle := len(spans) / 2
	right := a.label()
	a.emit(opAtLeast, spans[middle].from, 0, 1)
	a.jump(right)
	a.tree(spans[:middle])
	a.place(right)
	a.tree(spans[middle:])
}

func (a *assembler) rule(r rule) {
	for _, c := range r.clauses {
		next := a.label()
		for _, t := range c.tests {
			a.test(t, next)
		}
		a.emit(opReturn, c.action, 0, 0)
		a.place(next)
	}
	a.emit(opReturn, r.last, 0, 0)
}

// test emits a comparison of one 64-bit argument, low word first in memory, that jumps to fails when it does not hold.
func (a *assembler) test(t test, fails int) {
	offset := offArgs + 8*t.arg
	holds := a.label()
	for _, half := range []struct {
		offset      uint32
		mask, value uint32
	}{
		{offset + 4, uint32(t.mask >> 32), uint32(t.value >> 32)},
		{offset, uint32(t.mask), uint32(t.value)},
	} {
		if half.mask == 0 {
			continue // the kernel does not look at this half
		}
		a.emit(opLoad, half.offset, 0, 0)
		if half.mask != ^uint32(0) {
			a.emit(opAnd, half.mask, 0, 0)
		}
		a.emit(opEqual, half.value, 1, 0)
		if t.negated {
			a.jump(holds)
		} else {
			a.jump(fails)
		}
	}
	if t.negated {
		a.jump(fails)
	}
	a.place(holds)
}

func (a *assembler) program() (Program, error) {
	if len(a.code) > maxProgram {
		return Program{}, fmt.Errorf("the filter has %d instructions; the kernel takes %d", len(a.code), maxProgram)
	}
	var out []byte
	for at, in := range a.code {
		if !in.resolved {
			in.k = uint32(a.labels[in.jumpsTo] - at - 1)
		}
		out = binary.NativeEndian.AppendUint16(out, in.op)
		out = append(out, in.yes, in.no)
		out = binary.NativeEndian.AppendUint32(out, in.k)
	}
	sum := sha256.Sum256(out)
	return Program{Filter: out, Digest: "sha256:" + hex.EncodeToString(sum[:])}, nil
}
