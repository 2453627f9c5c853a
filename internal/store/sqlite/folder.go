package sqlite

import (
	"os"
	"syscall"

	"orrery.example/orrery/internal/fault"
)

// prepareFolder makes the folder and sees that it can hold a store.
func prepareFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Invalid, err, "the data folder cannot be made")
	}
	if readOnlyFilesystem(dir) {
		return onlyToRead(dir, syscall.EROFS)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fault.New(fault.Invalid, "the data folder cannot be used: %w", err)
	}
	if !info.IsDir() {
		return fault.New(fault.Invalid, "%s is not a folder", dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fault.New(fault.Invalid, "others can look into %s, and that cannot be changed: %w", dir, err)
		}
	}
	if name := networkFilesystem(dir); name != "" {
		return fault.New(fault.Invalid, "%s is on a network filesystem (%s): its locks cannot be trusted, and a store there would be damaged", dir, name).
			WithHint("choose a folder on a local disk")
	}
	return nil
}
