package plan

import (
	"container/heap"
	"slices"
	"strings"

	"orrery.example/orrery/internal/work"
)

// order sorts the nodes topologically: what a step needs comes before it with everything it contains, a container before
// what is inside of it, finally steps last, and among those that could come next the one with the least id. It reports
// false after a cycle.
func (b *builder) order() bool {
	ordered := make([]*node, 0, len(b.nodes))
	for _, n := range b.nodes {
		n.waits = len(n.needs)
		if n.parent != nil {
			n.waits++
		}
		n.inside = len(n.children)
	}
	for _, finally := range []bool{false, true} {
		var ready byID
		total := 0
		for _, n := range b.nodes {
			if n.spec.Finally == finally {
				total++
				if n.waits == 0 {
					ready = append(ready, n)
				}
			}
		}
		heap.Init(&ready)
		release := func(n *node) {
			if n.waits--; n.waits == 0 {
				heap.Push(&ready, n)
			}
		}
		for ready.Len() > 0 {
			n := heap.Pop(&ready).(*node)
			n.rank = len(ordered)
			ordered = append(ordered, n)
			total--
			for _, c := range n.children {
				release(c)
			}
			for done := n; done != nil && done.inside == 0; done = done.parent {
				for _, d := range done.dependents {
					release(d)
				}
				if done.parent == nil {
					break
				}
				done.parent.inside--
			}
		}
		if total > 0 {
			b.cycle()
			return false
		}
	}
	b.nodes = ordered
	return true
}

// byID is a heap of nodes, the least id on top.
type byID []*node

func (h byID) Len() int           { return len(h) }
func (h byID) Less(i, j int) bool { return h[i].spec.ID < h[j].spec.ID }
func (h byID) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push adds a node.
func (h *byID) Push(x any) { *h = append(*h, x.(*node)) }

// Pop takes the last node.
func (h *byID) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// cycle names one of the circles that keep steps from being ordered.
func (b *builder) cycle() {
	for i, start := range b.nodes {
		if start.waits == 0 || start.parent != nil && start.parent.waits > 0 {
			continue
		}
		// Every step that is left waits for another one that is left, so walking backwards comes back to where it was.
		var path []*node
		for n := start; n != nil && n.seen != i+1; n = stuck(n) {
			n.seen = i + 1
			path = append(path, n)
		}
		last := stuck(path[len(path)-1])
		from := slices.Index(path, last)
		if last == nil || from < 0 {
			continue
		}
		circle := path[from:]
		names := make([]string, 0, len(circle)+1)
		for _, n := range circle {
			names = append(names, string(n.step.Spec.ID))
		}
		names = append(names, names[0])
		const most = 12
		if len(names) > most {
			names = append(append(names[:most-2:most-2], "…"), names[len(names)-1])
		}
		pos := circle[0].step.Pos
		if len(circle[0].step.Needs) > 0 {
			pos = circle[0].step.Needs[0].Pos
		}
		b.problems.add(circle[0].pack.manifest.Fault(pos, "the steps need each other in a circle: %s", strings.Join(names, " → ")).
			WithHint("take one of these needs away; a step without needs follows the one before it in the list, needs: [] starts at once"))
		return
	}
}

// stuck returns a step that n needs and that could not be placed.
func stuck(n *node) *node {
	for _, need := range n.needs {
		if need.waits > 0 {
			return need
		}
	}
	return nil
}

// endsBefore reports whether target, a step beside n, certainly ended before n begins: n needs it, perhaps through others.
// What was found out is remembered, so that a long list whose steps all look at the first one is walked once.
func (b *builder) endsBefore(n, target *node, budget *int) bool {
	b.mark++
	stack := []*node{n}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, need := range at.needs {
			if need == target || b.known[[2]*node{target, need}] {
				b.known[[2]*node{target, n}] = true
				return true
			}
			if need.seen == b.mark || need.rank < target.rank {
				continue
			}
			if *budget--; *budget < 0 {
				return false
			}
			need.seen = b.mark
			stack = append(stack, need)
		}
	}
	return false
}

// kindWord says what a step is, for messages.
func kindWord(k work.StepKind) string {
	switch k {
	case work.KindApproval, work.KindPolicy:
		return "a gate"
	case work.KindRun:
		return "a run step"
	case work.KindPack:
		return "a pack"
	default:
		return "a " + string(k)
	}
}
