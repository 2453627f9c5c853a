package sqlite

import (
	"os"

	"golang.org/x/sys/unix"
)

// networkFilesystem names the filesystem of a folder when other machines may have it, too. One that cannot be asked counts as local.
func networkFilesystem(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return ""
	}
	return networkName(uint32(s.Type)) //nolint:unconvert // the type differs between machines
}

// readOnlyFilesystem reports whether nobody can write to the file system of a folder.
func readOnlyFilesystem(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Flags&unix.ST_RDONLY != 0
}

// networkName knows the numbers of statfs(2) and of the kernel modules that are not in it.
func networkName(kind uint32) string {
	switch kind {
	case 0x6969:
		return "NFS"
	case 0x517b, 0xff534d42, 0xfe534d42:
		return "SMB"
	case 0x5346414f, 0x6b414653:
		return "AFS"
	case 0x564c:
		return "NCP"
	case 0x73757245:
		return "Coda"
	case 0x01021997:
		return "9P"
	case 0x00c36400:
		return "Ceph"
	case 0x0bd00bd0:
		return "Lustre"
	case 0x47504653:
		return "GPFS"
	case 0x7461636f:
		return "OCFS2"
	case 0x01161970:
		return "GFS2"
	default:
		return ""
	}
}

// freeBytes is how much an ordinary user may still write beside a folder, and whether that is known.
func freeBytes(dir string) (int64, bool) {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true //nolint:unconvert // the types differ between machines
}

// allocate gives a file its space without writing it.
func allocate(f *os.File, size int64) error { return unix.Fallocate(int(f.Fd()), 0, 0, size) }
