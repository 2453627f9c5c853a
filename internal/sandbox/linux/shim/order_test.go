package shim

import (
	"reflect"
	"testing"
)

func sampleOrder() *Order {
	return &Order{
		Tier: 2, Rehearse: true, Argv: []string{"sh", "-c", "a\nb"}, Env: []string{"A=", "B=ü"}, Dir: WorkPath,
		Mounts:   []Mount{{Kind: MountLink, Source: "usr/bin", Target: "/bin", FD: -1}, {Kind: MountReadOnly, Source: "/usr", Target: "/usr", FD: 7}},
		TmpBytes: 1 << 30, ABI: 7, Readable: []string{"/"}, Writable: []string{WorkPath, "/tmp"}, Filter: []byte{1, 0, 255}, UID: -1,
		Limits: []Limit{{1, 2}, {3, 1 << 40}}, Proxied: true,
	}
}

func TestOrderSurvivesItsEncoding(t *testing.T) {
	want := sampleOrder()
	got, err := decodeOrder(want.encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

// Every shortened order is refused, not read as a smaller one.
func TestOrderCutShort(t *testing.T) {
	b := sampleOrder().encode()
	for n := range b {
		if _, err := decodeOrder(b[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken for an order", n, len(b))
		}
	}
}

func FuzzOrder(f *testing.F) {
	f.Add(sampleOrder().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOrder(b)
		if err != nil {
			return
		}
		again, err := decodeOrder(o.encode())
		if err != nil || !reflect.DeepEqual(o, again) {
			t.Errorf("%v: %+v, %+v", err, o, again)
		}
	})
}
