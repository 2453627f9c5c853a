package ledger_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"orrery.example/orrery/internal/ledger"
)

// published reads tiles as a client of tlog-tiles does.
type published struct {
	t     *testing.T
	files map[string][]byte
}

func (p published) Height() int { return 8 }

func (p published) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, ok := p.files[path]
		if !ok {
			return nil, fmt.Errorf("%s was not published", path)
		}
		out = append(out, data)
	}
	return out, nil
}

func (p published) SaveTiles([]tlog.Tile, [][]byte) {}

// A client that has the published files only finds every entry, and proves it under the checkpoint's root.
func TestTiles(t *testing.T) {
	for _, size := range []int64{1, 5, 256, 257, 700} {
		stored := grow(t, int(size))
		c := ledger.Checkpoint{Origin: ledger.Origin("acme"), Size: size, Root: root(t, size, stored)}
		files, last := map[string][]byte{}, ""
		for f, err := range ledger.Tiles(c, []byte("signed"), stored, func(i int64) ([]byte, error) { return leaf(t, int(i)), nil }) {
			if err != nil {
				t.Fatal(err)
			}
			if files[f.Path] != nil {
				t.Error(f.Path, "twice")
			}
			files[f.Path], last = f.Data, f.Path
		}
		if last != "checkpoint" {
			t.Error("the checkpoint comes last, not", last)
		}
		reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: c.Root}, published{t, files})
		for n := int64(0); n*256 < size; n++ {
			path := fmt.Sprintf("tile/entries/%03d", n)
			if width := size - n*256; width < 256 {
				path += fmt.Sprintf(".p/%d", width)
			}
			raw, ok := files[path]
			if !ok {
				t.Fatal(path, "was not published")
			}
			for i := n * 256; len(raw) > 0; i++ {
				length := binary.BigEndian.Uint16(raw)
				entry := raw[2 : 2+length]
				raw = raw[2+length:]
				if string(entry) != string(leaf(t, int(i))) {
					t.Fatalf("entry %d is %s", i, entry)
				}
				if i%97 != 0 {
					continue
				}
				proof, err := ledger.ProveInclusion(size, i, reader)
				if err != nil {
					t.Fatal(err)
				}
				if err := ledger.CheckInclusion(proof, size, c.Root, i, entry); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestTilesStopAtAnError(t *testing.T) {
	stored := grow(t, 300)
	c := ledger.Checkpoint{Origin: "o", Size: 300}
	lost := errors.New("pruned")
	for name, seq := range map[string]func(yield func(ledger.TileFile, error) bool){
		"leaf lost":   ledger.Tiles(c, nil, stored, func(int64) ([]byte, error) { return nil, lost }),
		"leaf large":  ledger.Tiles(c, nil, stored, func(int64) ([]byte, error) { return make([]byte, 1<<16), nil }),
		"hashes lost": ledger.Tiles(c, nil, stored[:50], func(int64) ([]byte, error) { return nil, nil }),
	} {
		var failed error
		for f, err := range seq {
			if failed != nil || f.Path == "checkpoint" {
				t.Error(name, "goes on after an error:", f.Path)
			}
			failed = err
		}
		if failed == nil {
			t.Error(name, "is no error")
		}
	}
}
