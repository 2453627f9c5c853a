package ledger

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"orrery.example/orrery/internal/fault"
)

const tileHeight = 8 // of C2SP tlog-tiles: 256 hashes or entries in a full tile

// TileFile is one file of a log in the C2SP tlog-tiles layout.
type TileFile struct {
	Path string // "tile/0/x001/067", "tile/entries/000.p/5", "checkpoint"
	Data []byte
}

// Tiles yields the files that publish a log up to a checkpoint: the tiles of hashes, the bundles of entries, and last the
// checkpoint, so that whoever reads while it is written never finds a checkpoint without its tiles. leaf returns a leaf by
// its index. An error ends the sequence.
func Tiles(c Checkpoint, signed []byte, stored HashReader, leaf func(index int64) ([]byte, error)) iter.Seq2[TileFile, error] {
	return func(yield func(TileFile, error) bool) {
		for _, tile := range tlog.NewTiles(tileHeight, 0, c.Size) {
			data, err := tlog.ReadTileData(tile, stored)
			if err != nil {
				yield(TileFile{}, fault.Wrap(fault.Internal, err, "tile %s of the log %s", tilePath(tile), c.Origin))
				return
			}
			if !yield(TileFile{tilePath(tile), data}, nil) {
				return
			}
			if tile.L > 0 {
				continue
			}
			entries, err := bundleOf(tile, leaf)
			tile.L = -1
			if !yield(TileFile{tilePath(tile), entries}, err) || err != nil {
				return
			}
		}
		yield(TileFile{"checkpoint", signed}, nil)
	}
}

// bundleOf returns the entries under a tile of the lowest level: each with its length before it.
func bundleOf(tile tlog.Tile, leaf func(int64) ([]byte, error)) ([]byte, error) {
	var out []byte
	for i := range int64(tile.W) {
		raw, err := leaf(tile.N<<tileHeight + i)
		if err != nil {
			return nil, err
		}
		if len(raw) > math.MaxUint16 {
			return nil, fault.New(fault.Invalid, "leaf %d has %d bytes, more than a bundle of entries can hold", tile.N<<tileHeight+i, len(raw))
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(raw))), raw...)
	}
	return out, nil
}

// tilePath is tlog's path without the height, which C2SP fixes; level -1 holds entries.
func tilePath(t tlog.Tile) string {
	level := "entries"
	if t.L >= 0 {
		level = fmt.Sprint(t.L)
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", tileHeight)), "/")
	return "tile/" + level + "/" + rest
}
