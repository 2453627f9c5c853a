package sandboxtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// payloadMark is the first argument of a test binary that was executed as the program of a step.
const payloadMark = "sandbox-payload"

// IsPayload reports whether this process is the program of a step. A TestMain asks it and then calls Payload.
func IsPayload(argv []string) bool { return len(argv) > 2 && argv[1] == payloadMark }

// Payload does one small thing inside a sandbox, says on standard output what the kernel answered, and returns the exit code.
func Payload(argv []string) int {
	args := argv[3:]
	action, known := map[string]func([]string) int{
		"both": payBoth, "exit": func(a []string) int { return number(a[0]) }, "raise": payRaise, "block": payBlock, "polite": payPolite,
		"stubborn": payStubborn, "env": payEnv, "socket": paySocket, "syscall": paySyscall, "create": payCreate, "read": payRead,
		"fork": payFork, "memory": payMemory, "disk": payDisk, "line": payLine, "daemon": payDaemon, "connect": payConnect,
		"tunnel": payTunnel, "get": payGet, "resolve": payResolve, "processes": payProcesses, "spin": paySpin, "file": payFile, "cat": payCat,
		"init": payInit, "outputs": payOutputs,
	}[argv[2]]
	if !known {
		fmt.Println("unknown payload", argv[2])
		return 99
	}
	syscall.Exit(action(args)) // os.Exit would first end a race detector, which takes it a second
	return 99
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func say(err error) int {
	var errno syscall.Errno
	switch {
	case err == nil:
		fmt.Println("ok")
	case asErrno(err, &errno):
		fmt.Println(unix.ErrnoName(errno))
	default:
		fmt.Println(err)
	}
	return 0
}

func asErrno(err error, to *syscall.Errno) bool {
	for err != nil {
		if e, ok := err.(syscall.Errno); ok {
			*to = e
			return e != 0
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		err = u.Unwrap()
	}
	return false
}

func payBoth([]string) int {
	for i := range 3 {
		fmt.Fprintf(os.Stdout, "out %d\n", i)
		fmt.Fprintf(os.Stderr, "err %d\n", i)
	}
	return 0
}

func payRaise(a []string) int {
	signal.Reset()
	_ = unix.Kill(os.Getpid(), unix.Signal(number(a[0])))
	return payBlock(nil)
}

func payBlock([]string) int {
	fmt.Println("ready")
	for {
		time.Sleep(time.Hour)
	}
}

func payPolite([]string) int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM)
	fmt.Println("ready")
	<-c
	fmt.Println("goodbye")
	return 7
}

func payStubborn([]string) int {
	signal.Ignore(unix.SIGTERM)
	return payBlock(nil)
}

func payEnv([]string) int {
	for _, e := range os.Environ() {
		fmt.Println(e)
	}
	return 0
}

func paySocket(a []string) int {
	_, err := unix.Socket(number(a[0]), number(a[1]), number(a[2]))
	return say(err)
}

// paySyscall makes each call with arguments that could do no harm if it were allowed.
func paySyscall(a []string) int {
	for _, n := range a {
		_, _, errno := unix.Syscall6(uintptr(number(n)), 0, 0, 0, 0, 0, 0)
		name := unix.ErrnoName(errno)
		if errno == 0 {
			name = "ok"
		}
		fmt.Println(n, name)
	}
	return 0
}

func payCreate(a []string) int {
	f, err := os.OpenFile(a[0], os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		f.Close()
	}
	return say(err)
}

func payRead(a []string) int {
	f, err := os.Open(a[0])
	if err == nil {
		_, err = f.Read(make([]byte, 1))
		if err == io.EOF || strings.Contains(fmt.Sprint(err), "is a directory") {
			err = nil
		}
	}
	return say(err)
}

// payFork starts children until it has all or the limit refuses one.
func payFork(a []string) int {
	started := 0
	for range number(a[0]) {
		c := exec.Command(os.Args[0], payloadMark, "block")
		if err := c.Start(); err != nil {
			fmt.Println("stopped at", started)
			return 5
		}
		started++
	}
	fmt.Println("started", started)
	return 0
}

func payMemory(a []string) int {
	b, err := unix.Mmap(-1, 0, number(a[0]), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Println(err)
		return 6
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	runtime.KeepAlive(b)
	fmt.Println("took it")
	return 0
}

// payDisk fills the work folder with many small files, some below a folder that it closes.
func payDisk(a []string) int {
	block := make([]byte, 1<<20)
	_ = os.MkdirAll("hidden", 0o700)
	_ = os.Chdir("hidden")
	_ = os.Chmod("../hidden", 0o300)
	for i := range number(a[0]) {
		if err := os.WriteFile(fmt.Sprint("f", i), block, 0o600); err != nil {
			fmt.Println(err)
			return 8
		}
	}
	return payBlock(nil)
}

func payLine(a []string) int {
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	for range number(a[0]) {
		_ = w.WriteByte('x')
	}
	_ = w.Flush()
	return 0
}

// payDaemon leaves a grandchild in a session of its own and ends.
func payDaemon(a []string) int {
	if len(a) > 1 {
		c := exec.Command(os.Args[0], payloadMark, "block", a[0])
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return say(c.Start())
	}
	c := exec.Command(os.Args[0], payloadMark, "daemon", a[0], "child")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return say(c.Run())
}

func payConnect(a []string) int {
	c, err := net.DialTimeout(a[0], a[1], 5*time.Second)
	if err == nil {
		c.Close()
	}
	return say(err)
}

// payTunnel asks the proxy for a connection and, when it gets one, sends a line and prints the answer.
func payTunnel(a []string) int {
	for _, target := range a {
		c, err := net.Dial("tcp", "127.0.0.1:3128")
		if err != nil {
			return say(err)
		}
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
		r := bufio.NewReader(c)
		status, _ := r.ReadString('\n')
		fmt.Println(target, strings.Fields(status)[1])
		if strings.Contains(status, " 200 ") {
			_, _ = r.ReadString('\n')
			fmt.Fprintln(c, "ping")
			answer, _ := r.ReadString('\n')
			fmt.Print("answer ", answer)
		}
		c.Close()
	}
	return 0
}

func payGet(a []string) int {
	c, err := net.Dial("tcp", "127.0.0.1:3128")
	if err != nil {
		return say(err)
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", a[0])
	status, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Println(strings.Fields(status)[1])
	return 0
}

func payResolve(a []string) int {
	_, err := net.LookupHost(a[0])
	if err != nil {
		fmt.Println("does not resolve")
		return 0
	}
	return say(nil)
}

func payProcesses([]string) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			fmt.Println(strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return 0
}

func paySpin([]string) int {
	for n := 0; ; n++ {
		if n < 0 {
			return 0 // not in the lifetime of a test
		}
	}
}

func payFile(a []string) int {
	signal.Reset(unix.SIGXFSZ)
	f, err := os.Create("big")
	if err != nil {
		return say(err)
	}
	_, err = f.Write(make([]byte, number(a[0])))
	return say(err)
}

func payCat([]string) int {
	_, err := io.Copy(os.Stdout, os.Stdin)
	if err != nil {
		return say(err)
	}
	return 0
}

// payInit attacks the sandbox's process 1.
func payInit([]string) int {
	for _, s := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGSEGV, unix.SIGSTOP, unix.SIGQUIT} {
		_ = unix.Kill(1, s)
	}
	for _, name := range []string{"mem", "exe", "environ", "fd/3", "root"} {
		f, err := os.OpenFile("/proc/1/"+name, os.O_RDWR, 0)
		fmt.Print(name, " ")
		say(err)
		if err == nil {
			f.Close()
		}
	}
	return 3
}

// payOutputs leaves one of everything a collector must refuse, and one file.
func payOutputs([]string) int {
	_ = os.MkdirAll("dist/deep", 0o755)
	_ = os.WriteFile("dist/deep/a.txt", []byte("a"), 0o600)
	_ = os.Symlink("/etc/passwd", "link")
	_ = unix.Mkfifo("pipe", 0o600)
	_ = os.MkdirAll("closed/in", 0o700)
	_ = os.WriteFile("closed/in/f", []byte("f"), 0o400)
	_ = os.Chmod("closed/in", 0)
	return say(os.Chmod("closed", 0))
}
