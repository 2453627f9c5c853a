package linux

import (
	"context"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// watchDisk calls exceeded when the work folder outgrows its limit. Looking costs more the more there is, so the pause between
// two looks grows with the time one takes.
func watchDisk(ctx context.Context, dir string, limit int64, exceeded func()) {
	const least = 200 * time.Millisecond
	timer := time.NewTimer(least)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		if diskUsage(dir, limit) > limit {
			exceeded()
			return
		}
		timer.Reset(max(least, 20*time.Since(start)))
	}
}

// diskUsage adds up the blocks of everything below dir, each inode once, and stops when it is past the limit. It never follows
// a link. A folder its owner has closed is opened again: otherwise closing it would hide what is in it.
func diskUsage(dir string, limit int64) int64 {
	u := &usage{limit: limit, seen: map[uint64]bool{}}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0
	}
	u.walk(os.NewFile(uintptr(fd), dir))
	return u.total
}

type usage struct {
	limit, total int64
	seen         map[uint64]bool // inodes with several names
}

func (u *usage) walk(dir *os.File) {
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			u.entry(int(dir.Fd()), name)
			if u.total > u.limit {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (u *usage) entry(parent int, name string) {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return
	}
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Nlink > 1 && !folder {
		if u.seen[st.Ino] {
			return
		}
		u.seen[st.Ino] = true
	}
	u.total += st.Blocks * 512
	if !folder {
		return
	}
	const flags = unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|flags, 0)
	if err == unix.EACCES {
		fd, err = reopen(parent, name, st.Mode)
	}
	if err == nil {
		u.walk(os.NewFile(uintptr(fd), name))
	}
}

// reopen gives the owner of a closed folder the right to read it, through a handle that a swapped link cannot redirect.
func reopen(parent int, name string, mode uint32) (int, error) {
	handle, err := unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(handle)
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(handle), mode&0o7777|0o500); err != nil {
		return -1, err
	}
	return unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
}
