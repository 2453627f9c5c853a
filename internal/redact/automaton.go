package redact

import (
	"bytes"
	"slices"
)

// pattern is one text to find, with the index of the secret's name.
type pattern struct {
	text []byte
	name int32
}

// automaton is an Aho–Corasick automaton. States are numbered by distance from the root, so that the root and its
// children, where most text is spent, come first; they have a full row of transitions, the others only their own edges.
type automaton struct {
	rows  []int32 // 256 for each of the first states
	full  int32   // how many states have a row
	nodes []node
	bytes []byte // of the edges
	next  []int32
}

type node struct {
	first, last int32 // its edges
	fail        int32 // the longest proper suffix that is a state
	depth       int32
	longest     int32 // bytes of the longest pattern that ends here, 0 for none
	name        int32
}

// build makes the automaton. Of patterns with equal text the first name counts.
func build(patterns []pattern) *automaton {
	slices.SortStableFunc(patterns, func(a, b pattern) int { return bytes.Compare(a.text, b.text) })
	patterns = slices.CompactFunc(patterns, func(a, b pattern) bool { return bytes.Equal(a.text, b.text) })

	// A state is a range of the sorted patterns that share their first depth bytes.
	type span struct{ low, high int }
	a := &automaton{nodes: []node{{}}, rows: make([]int32, 256), full: 1}
	spans := []span{{0, len(patterns)}}
	for s := 0; s < len(spans); s++ {
		low, high, depth := spans[s].low, spans[s].high, int(a.nodes[s].depth)
		if low < high && len(patterns[low].text) == depth {
			a.nodes[s].longest, a.nodes[s].name = int32(depth), patterns[low].name
			low++
		} else if f := a.nodes[a.nodes[s].fail]; s > 0 && f.longest > 0 {
			a.nodes[s].longest, a.nodes[s].name = f.longest, f.name
		}
		if depth == 1 {
			a.rows = append(a.rows, a.rows[:256]...)
			a.full++
		}
		a.nodes[s].first = int32(len(a.bytes))
		for low < high {
			c := patterns[low].text[depth]
			end := low
			for end < high && patterns[end].text[depth] == c {
				end++
			}
			child := int32(len(spans))
			fail := int32(0)
			if s > 0 {
				fail = a.step(a.nodes[s].fail, c)
			}
			a.nodes = append(a.nodes, node{fail: fail, depth: int32(depth) + 1})
			spans = append(spans, span{low, end})
			a.bytes, a.next = append(a.bytes, c), append(a.next, child)
			if depth <= 1 {
				a.rows[s*256+int(c)] = child
			}
			low = end
		}
		a.nodes[s].last = int32(len(a.bytes))
	}
	return a
}

// step returns the state after c.
func (a *automaton) step(s int32, c byte) int32 {
	for s >= a.full {
		n := &a.nodes[s]
		if n.last-n.first == 1 {
			if a.bytes[n.first] == c {
				return a.next[n.first]
			}
		} else if i := bytes.IndexByte(a.bytes[n.first:n.last], c); i >= 0 {
			return a.next[int(n.first)+i]
		}
		s = n.fail
	}
	return a.rows[int(s)<<8|int(c)]
}
