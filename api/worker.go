package api

import "encoding/json"

// WorkerToken fences one attempt: every message about it carries it, and only the current one is taken.
type WorkerToken struct {
	Incarnation int64 `json:"incarnation"`
	Epoch       int64 `json:"epoch"`
}

// WorkerLease names one attempt that a worker holds.
type WorkerLease struct {
	Run   string      `json:"run"`
	Step  string      `json:"step"`
	Token WorkerToken `json:"token"`
}

// WorkerOffer is what a worker can run.
type WorkerOffer struct {
	Runners []string          `json:"runners"` // kinds of steps
	Labels  map[string]string `json:"labels,omitempty"`
	Tier    int               `json:"tier"` // of the strongest sandbox it has, 0 to 3
}

// WorkerRegistration opens a session, or renews one whose server forgot it.
type WorkerRegistration struct {
	Session      string          `json:"session"` // made up by the worker, random, new for each process
	Worker       string          `json:"worker"`  // a name for people
	Version      string          `json:"version,omitempty"`
	Slots        int             `json:"slots"` // steps at once
	Offer        WorkerOffer     `json:"offer"`
	Capabilities []string        `json:"capabilities,omitempty"` // parts of the protocol beyond the first version
	Sandbox      json.RawMessage `json:"sandbox,omitempty"`      // what a probe of its sandbox found, for people
}

// WorkerWelcome answers a registration.
type WorkerWelcome struct {
	Worker      string `json:"worker"` // the name under which it goes into the evidence
	Tenant      string `json:"tenant"`
	SessionMs   int64  `json:"sessionMs"`   // without a heartbeat for this long its leases are lost
	HeartbeatMs int64  `json:"heartbeatMs"` // how often to send one
	MaxWaitMs   int64  `json:"maxWaitMs"`   // the longest wait that a request may ask for
	MaxBatch    int    `json:"maxBatch"`    // entries of one request at most
	MaxBody     int64  `json:"maxBody"`     // bytes of one JSON request at most, after decompression
	Time        string `json:"time"`        // of the server
}

// WorkerExchange reports attempts that have ended and asks for new ones, in one transaction. WorkerClaim and WorkerReports are its halves.
type WorkerExchange struct {
	Session string         `json:"session"`
	Worker  string         `json:"worker,omitempty"` // its name, as registered
	Reports []WorkerReport `json:"reports,omitempty"`
	Offer   WorkerOffer    `json:"offer"`
	Max     int            `json:"max"`              // attempts wanted at most
	WaitMs  int64          `json:"waitMs,omitempty"` // how long to wait for the first; only without reports

	// Resync is set when the answer to an earlier request got lost, and with it perhaps leases: those of the session that are not
	// in Holding are given back, without a charge, to be granted again.
	Resync  bool          `json:"resync,omitempty"`
	Holding []WorkerLease `json:"holding,omitempty"`
}

// WorkerExchanged answers a WorkerExchange. Results has one entry for each report.
type WorkerExchanged struct {
	Results []WorkerResult `json:"results,omitempty"`
	Grants  []WorkerGrant  `json:"grants,omitempty"`
}

// WorkerResult says what became of one entry of a batch: without an error it was taken.
type WorkerResult struct {
	Error *Error `json:"error,omitempty"`
}

// WorkerGrant is a lease with what its worker needs. Bindings are the values that the templates of the step are rendered with.
type WorkerGrant struct {
	Run      string          `json:"run"`
	RunName  string          `json:"runName"`
	PlanHash string          `json:"planHash"`
	Step     string          `json:"step"`
	Attempt  int             `json:"attempt"`
	Token    WorkerToken     `json:"token"`
	Deadline string          `json:"deadline"`
	Trace    string          `json:"trace,omitempty"` // W3C traceparent
	State    string          `json:"traceState,omitempty"`
	Baggage  string          `json:"baggage,omitempty"`
	Bindings json.RawMessage `json:"bindings"`
	Request  json.RawMessage `json:"request,omitempty"` // the signed request of the run; of several grants of one run the first has it
}

// WorkerReport is the end of one attempt.
type WorkerReport struct {
	Run         string           `json:"run"`
	Step        string           `json:"step"`
	Token       WorkerToken      `json:"token"`
	State       string           `json:"state"` // succeeded, failed, timed-out, cancelled
	Reason      WorkerReason     `json:"reason"`
	Class       string           `json:"class,omitempty"` // for rules of retry
	ExitCode    int              `json:"exitCode"`
	StartedAt   string           `json:"startedAt"`
	EndedAt     string           `json:"endedAt"`
	Rendered    string           `json:"rendered,omitempty"` // digest of what ran
	Outputs     json.RawMessage  `json:"outputs,omitempty"`  // object
	Artifacts   []WorkerArtifact `json:"artifacts,omitempty"`
	Transcript  WorkerTranscript `json:"transcript"`
	Protections json.RawMessage  `json:"protections,omitempty"` // the sandbox that was in force
	Egress      json.RawMessage  `json:"egress,omitempty"`      // attempts to connect
	Usage       *WorkerUsage     `json:"usage,omitempty"`
	CacheKey    string           `json:"cacheKey,omitempty"`
	CachedFrom  *WorkerOrigin    `json:"cachedFrom,omitempty"`
	Signed      *WorkerSignature `json:"signed,omitempty"` // by a worker with a certificate
}

// WorkerSignature is a worker's signature of what it reports, alone or together with other results.
type WorkerSignature struct {
	Certificate []byte       `json:"certificate"`     // X.509, DER, base64
	Sig         []byte       `json:"sig"`             // base64
	Batch       *WorkerBatch `json:"batch,omitempty"` // when several were signed at once
}

// WorkerBatch is the place of a result among those that one signature is for.
type WorkerBatch struct {
	Index int64    `json:"index"` // from 0
	Size  int64    `json:"size"`
	Proof [][]byte `json:"proof"` // nodes of SHA-256 beside the way to the root, from the leaf on, each in base64
}

// WorkerReason is why an attempt ended: a code, and a sentence without secrets.
type WorkerReason struct {
	Code    string `json:"code"`
	Subject string `json:"subject,omitempty"`
	Message string `json:"message,omitempty"`
}

// WorkerArtifact is a file that a step left, uploaded before it is reported.
type WorkerArtifact struct {
	Name       string `json:"name"` // of the declared output
	Path       string `json:"path"`
	Digest     string `json:"digest"`
	Size       int64  `json:"size"`
	Executable bool   `json:"executable,omitempty"`
}

// WorkerTranscript binds the lines of an attempt: Digest is the SHA-256 over their text in order, each followed by a newline.
type WorkerTranscript struct {
	Lines   int64  `json:"lines"`
	Digest  string `json:"digest,omitempty"`
	Dropped int64  `json:"dropped,omitempty"` // bytes
}

// WorkerUsage is what an attempt took.
type WorkerUsage struct {
	WallMs      int64 `json:"wallMs"`
	CPUMs       int64 `json:"cpuMs"`
	MaxRSSBytes int64 `json:"maxRssBytes"`
}

// WorkerOrigin is the attempt whose result was used again.
type WorkerOrigin struct {
	Run     string `json:"run"`
	Step    string `json:"step"`
	Attempt int    `json:"attempt"`
}

// WorkerAcks notes that attempts began.
type WorkerAcks struct {
	Session string        `json:"session"`
	Leases  []WorkerLease `json:"leases"`
}

// WorkerResults answers a batch, one entry each.
type WorkerResults struct {
	Results []WorkerResult `json:"results"`
}

// WorkerBeat renews a session. With a wait it is answered as soon as one of the runs is to stop, or when the wait is over.
type WorkerBeat struct {
	Session string   `json:"session"`
	WaitMs  int64    `json:"waitMs,omitempty"`
	Runs    []string `json:"runs,omitempty"` // of which the worker runs steps; only they are watched during the wait
}

// WorkerOrders is what a worker is to stop.
type WorkerOrders struct {
	Cancel []WorkerLease `json:"cancel,omitempty"`
	Drain  bool          `json:"drain,omitempty"` // take no more, end what runs, leave
}

// WorkerLogs appends output.
type WorkerLogs struct {
	Session string         `json:"session"`
	Batches []WorkerOutput `json:"batches"`
}

// WorkerOutput is some lines of one attempt. From is the number of the first line within its attempt, from 1: lines that are there
// already are passed over, a gap is refused.
type WorkerOutput struct {
	WorkerLease
	From  int64        `json:"from"`
	Lines []WorkerLine `json:"lines"`
}

// WorkerLine is one line of output.
type WorkerLine struct {
	Time    string `json:"time"`
	Level   string `json:"level"` // trace, debug, info, warn, error
	Type    string `json:"type"`  // step.stdout, step.stderr, step.message, step.truncated, step.progress
	Message string `json:"message"`
}

// WorkerTrustRoots are signed trust roots, in the order of their numbers.
type WorkerTrustRoots struct {
	Items []json.RawMessage `json:"items"` // DSSE envelopes
}

// WorkerSignatures are what authors have signed of a pack.
type WorkerSignatures struct {
	Items []json.RawMessage `json:"items"` // DSSE envelopes
}

// WorkerCached is an earlier result under a cache key.
type WorkerCached struct {
	Origin    WorkerOrigin     `json:"origin"`
	Outputs   json.RawMessage  `json:"outputs,omitempty"`
	Artifacts []WorkerArtifact `json:"artifacts,omitempty"`
}

// WorkerUpload says how much of a blob the server has.
type WorkerUpload struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`   // of the whole, -1 while it is not known
	Offset int64  `json:"offset"` // bytes that are there
}

// WorkerSeen is a worker as its server last heard of it.
type WorkerSeen struct {
	Worker   string          `json:"worker"`
	Version  string          `json:"version,omitempty"`
	Slots    int             `json:"slots"`
	Offer    WorkerOffer     `json:"offer"`
	Sandbox  json.RawMessage `json:"sandbox,omitempty"`
	LastSeen string          `json:"lastSeen"`
	Draining bool            `json:"draining,omitempty"`
	Cordoned bool            `json:"cordoned,omitempty"` // it takes nothing new
}

// WorkerList is the workers of a tenant that were heard of lately.
type WorkerList struct {
	Workers []WorkerSeen `json:"workers"`
}

// WorkerInvite asks for a token with which one worker may join a pool.
type WorkerInvite struct {
	Pool    string `json:"pool"`
	Seconds int64  `json:"expiresIn,omitempty"` // a day without one
}

// WorkerInvitation is that token; it is in this answer and nowhere else.
type WorkerInvitation struct {
	Token string `json:"token"`
}

// WorkerJoin is a request for a first certificate, or without a token, for the next one.
type WorkerJoin struct {
	Token   string `json:"token,omitempty"`
	Request string `json:"request"` // PEM of a PKCS #10 request; only its key counts, ECDSA on P-256
}

// WorkerIdentity is the certificate of a worker.
type WorkerIdentity struct {
	Certificate string `json:"certificate"` // PEM
	Authority   string `json:"authority"`   // PEM of the certificate that it is checked with
}

// WorkerDenial shuts a worker out.
type WorkerDenial struct {
	Worker string `json:"worker"` // its whole name, spiffe://…
	Reason string `json:"reason"`
}
