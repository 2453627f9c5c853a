// Package app builds the object graph over a data folder and runs it: the one place that constructs drivers.
package app

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/collect"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/policy"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/gvisor"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/linux/image"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Options say how a data folder is used.
type Options struct {
	Dir              string
	Tenant           work.Tenant
	Store            string // "" for the data folder, or postgres://…
	Wake             string // "" for the store, or nats://…, valkey://…, postgres://…: how servers tell each other of commits
	Blobs            string // "" for the data folder, or s3://HOST/BUCKET
	EncryptionKey    string // file with the key of what servers keep encrypted in the store; "" for encryption.key in the data folder
	ReadOnly         bool   // only look; works while another process holds the folder
	Slots            int    // steps at once; 0 means twice the processors
	AllowUnsandboxed bool
	ReadPaths        []string                                             // host paths that every step may read
	StepPath         string                                               // PATH of steps; empty means the system's folders
	Runsc            string                                               // path or name of gVisor's program, for tier t3; empty looks for runsc in PATH
	Withhold         []string                                             // sandbox layers to do without, to see what is refused
	Secret           func(tenant work.Tenant, ref string) ([]byte, error) // resolves references to secrets for the worker here; nil lets a step have what this user has
	Engines          []policy.Engine                                      // policy engines that gates may name
	Log              *slog.Logger
	Telemetry        *Telemetry // nil tells nothing

	heard func(kernel.Commit) // hears of commits, too; nil for nobody
}

// Folder is an open data folder.
type Folder struct {
	Options
	Store   *kernel.Store
	Blobs   blob.Store // without a quota: for evidence, which is kept whatever else is
	Limited blob.Store // the same behind the quotas of tenants
	Meter   *collect.Meter
	Keys    keyring.Ring
	Control *control.Service
	Attest  *attest.Service
	Sandbox sandbox.Driver

	encrypter *keyring.Encrypter // of a server
	policies  *policy.Service
	secrets   *secrets
	close     func() error
}

// Now is the clock of everything that the folder does.
func Now() work.Time { return work.At(time.Now()) }

// Open opens a data folder, making it and its keys when it is new. Errors: fault.Locked when another process holds it, fault.NotFound for
// a folder that is only looked at and not there.
func Open(ctx context.Context, o Options) (*Folder, error) {
	o.Log = hushed(o.Log)
	if o.ReadOnly {
		if _, err := os.Stat(o.Dir); errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.NotFound, "there is no data folder %s yet", o.Dir).WithHint("orrery run FILE makes it")
		}
	} else if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "data folder %s", o.Dir)
	}
	f := &Folder{Options: o, Keys: keyring.Open(o.Dir), secrets: &secrets{}}
	if err := f.open(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Folder) open(ctx context.Context) error {
	var err error
	if f.Store, f.close, err = openStore(ctx, f.Options); err != nil {
		return err
	}
	unfollow, shut := f.Telemetry.follow(f.Store), f.close
	f.close = func() error {
		unfollow()
		err := shut()
		f.Telemetry.Close()
		return err
	}
	f.Meter = &collect.Meter{Records: f.Store, Flows: f.Store, Now: Now, Observe: f.Telemetry.stored}
	if f.Blobs, err = openBlobs(ctx, f.Options, f.Meter.Stored); err != nil {
		return errors.Join(err, f.close())
	}
	f.Blobs = f.Telemetry.blobs(f.Blobs)
	f.Meter.Blobs = f.Blobs
	f.Limited = f.Meter.Limit()
	if f.Shared() {
		if err := f.encrypt(ctx); err != nil {
			return errors.Join(err, f.close())
		}
		f.Keys = f.keystore().Ring(f.Tenant)
	}
	f.Control = &control.Service{Store: f.Store, Nonces: f.Store, Blobs: f.Limited, Flows: f.Store, Trust: f.Keys.Trust, Now: Now}
	if f.ReadOnly {
		f.lookAttest()
		return nil
	}
	if err := f.ready(ctx); err != nil {
		return errors.Join(err, f.close())
	}
	return nil
}

// lookAttest lets somebody who may only look sign evidence with the keys that are there. Without them evidence cannot be made here.
func (f *Folder) lookAttest() {
	attestor, err := f.Keys.Load(AttestorName, keyring.Attest, Now())
	if err == nil {
		f.Attest = &attest.Service{Store: f.Store, Blobs: f.Blobs, Attestor: attestor, Trust: f.Keys.Trust, Now: Now}
	}
}

// ready makes the folder's own keys and takes back what a process that is gone had under way.
func (f *Folder) ready(ctx context.Context) error {
	var err error
	if f.Attest, err = f.attestor(f.Keys); err != nil {
		return err
	}
	if _, err = own(f.Keys, WorkerName, keyring.ECDSAP256, keyring.Worker); err != nil {
		return err // it is made early, so that whoever takes a copy of the trust root has it
	}
	secret := f.Telemetry.secret(f.secrets.resolve)
	token := func(ref string) ([]byte, error) { return secret(f.Tenant, ref) }
	if f.policies, err = policy.New(f.Store, f.Engines, token, f.Log); err != nil {
		return err
	}
	if f.Shared() {
		return nil // another server may be working; what a lost one had is given back when its session ends
	}
	return f.Store.Recover(ctx)
}

// attestor seals and attests with the keys of a tenant, made at the first use.
func (f *Folder) attestor(keys keyring.Ring) (*attest.Service, error) {
	attestor, err := own(keys, AttestorName, keyring.ECDSAP256, keyring.Attest)
	if err != nil {
		return nil, err
	}
	logKey, err := own(keys, LogName, keyring.Ed25519, keyring.Log)
	if err != nil {
		return nil, err
	}
	return &attest.Service{Store: f.Store, Blobs: f.Blobs, Attestor: attestor, LogKey: logKey, Trust: keys.Trust, Now: Now}, nil
}

// Names of the keys that a data folder makes for itself.
const (
	AttestorName = "attestor"
	LogName      = "ledger"
	WorkerName   = "worker"    // signs what steps of this process report
	IssuerName   = "authority" // signs the certificates of workers, and is trusted only
)

func own(keys keyring.Ring, name string, a keyring.Algorithm, u keyring.Usage) (*keyring.Private, error) {
	key, err := keys.Load(name, u, Now())
	if fault.CodeOf(err) == fault.NotFound {
		if _, err = keys.Generate(name, a, []keyring.Usage{u}, Now()); err != nil {
			return nil, err
		}
		return keys.Load(name, u, Now()) // another server may have made one at the same moment: the newest counts
	}
	return key, err
}

// Person returns the key of a person for a use. The folder's first submitter gets a key made; anybody else must have one.
func (f *Folder) Person(name string, u keyring.Usage) (*keyring.Private, error) {
	key, err := f.Keys.Load(name, u, Now())
	if fault.CodeOf(err) != fault.NotFound {
		return key, err
	}
	if u == keyring.Submit && !f.ReadOnly {
		return f.Keys.Generate(name, keyring.Ed25519, []keyring.Usage{keyring.Approve, keyring.Submit}, Now())
	}
	return nil, fault.New(fault.NotFound, "there is no key of %s to sign with", name).
		WithHint("orrery keys generate %s", name)
}

// Driver returns the sandbox of this machine, made at the first use.
func (f *Folder) Driver() (sandbox.Driver, error) {
	if f.Sandbox != nil {
		return f.Sandbox, nil
	}
	d, err := NewSandbox(f.Options)
	if err != nil {
		return nil, err
	}
	f.Sandbox = d
	return d, nil
}

// NewSandbox returns the sandbox of this machine.
func NewSandbox(o Options) (sandbox.Driver, error) {
	walls, err := linux.New(linux.Config{
		Shim: image.Bytes(), AllowUnsandboxed: o.AllowUnsandboxed, ReadOnly: o.ReadPaths, Disable: o.Withhold,
	})
	if err != nil {
		return nil, err
	}
	return gvisor.New(gvisor.Config{Program: o.Runsc, Disable: o.Withhold}, walls), nil
}

// Close releases the folder.
func (f *Folder) Close() error {
	if !f.ReadOnly {
		ctx, cancel := context.WithTimeout(context.Background(), flushWait)
		defer cancel()
		if err := f.Meter.Flush(ctx); err != nil { // the next collection counts anew
			f.Log.Warn("how much is stored was not written down", "error", err)
		}
	}
	return f.close()
}

// flushWait is how long the end of a process waits for a store that may be gone already.
const flushWait = 2 * time.Second
