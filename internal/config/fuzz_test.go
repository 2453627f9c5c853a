package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"orrery.example/orrery/internal/config"
	"orrery.example/orrery/internal/fault"
)

// A file of settings is read or refused as a wrong one; what was read can be asked for.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("listen: 127.0.0.1:8420\nrate: 2.5\nsealed: true\ndrain: 5s\nread-path: [/a, /b]\n"))
	f.Add([]byte("listen: {a: b}\n"))
	f.Add([]byte("lsten: x\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? [1]\n: 2\n"))
	settings := []config.Setting{
		{Name: "listen", Kind: "text"}, {Name: "rate", Kind: "number", Default: "1"}, {Name: "sealed", Kind: "switch", Default: "false"},
		{Name: "drain", Kind: "duration", Default: "1s"}, {Name: "read-path", Kind: "list"},
	}
	file := filepath.Join(f.TempDir(), "settings.yaml")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := config.Load(settings, config.Sources{File: file, Lookup: func(string) (string, bool) { return "", false }})
		if err != nil {
			if fault.CodeOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		_, _, _, _, _ = v.Text("listen"), v.Number("rate"), v.On("sealed"), v.Duration("drain"), v.List("read-path")
		var into struct {
			Listen string `yaml:"listen"`
		}
		if err := config.Document(file, &into); err != nil && fault.CodeOf(err) != fault.Invalid {
			t.Fatal(err)
		}
	})
}
