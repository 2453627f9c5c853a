package memory

import "slices"

// ordered is a set that is kept sorted.
type ordered[T any] struct {
	compare func(a, b T) int
	items   []T
}

func newOrdered[T any](compare func(a, b T) int) *ordered[T] { return &ordered[T]{compare: compare} }

func (o *ordered[T]) clone() *ordered[T] { return &ordered[T]{o.compare, slices.Clone(o.items)} }

// insert adds a value that is not in the set.
func (o *ordered[T]) insert(v T) {
	at, _ := slices.BinarySearchFunc(o.items, v, o.compare)
	o.items = slices.Insert(o.items, at, v)
}

// remove takes out a value that is in the set.
func (o *ordered[T]) remove(v T) {
	at, found := slices.BinarySearchFunc(o.items, v, o.compare)
	if found {
		o.items = slices.Delete(o.items, at, at+1)
	}
}

// from returns the values at and after v.
func (o *ordered[T]) from(v T) []T {
	at, _ := slices.BinarySearchFunc(o.items, v, o.compare)
	return o.items[at:]
}

// after returns the values after v.
func (o *ordered[T]) after(v T) []T {
	rest := o.from(v)
	if len(rest) > 0 && o.compare(rest[0], v) == 0 {
		return rest[1:]
	}
	return rest
}

// set makes v a member or not, in the transaction.
func set[T any](t *tx, o *ordered[T], v T, member bool) {
	if member {
		o.insert(v)
		t.onRollback(func() { o.remove(v) })
		return
	}
	o.remove(v)
	t.onRollback(func() { o.insert(v) })
}
