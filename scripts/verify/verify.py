#!/usr/bin/env python3
"""Checks an evidence bundle with nothing of Orrery: Python's standard library and the openssl command.

    verify.py BUNDLE.tar TRUST.json [--run RUN] [--tenant TENANT] [--plan PLANHASH] [--signed-results]

It is written from docs/reference/evidence.md alone, to show that the page is enough. TRUST.json is the keyring of the producer, got over a way
that you trust (orrery keys trust-root); the copy in the bundle is never asked.

It checks the form of the archive, every digest, every signature with the use and the time of its key, the plan hash, the hash chain of the
history, what people signed against what the history says of it, transcripts, outputs, what the attestations say, and the way from the run
to the signed head of the log. It does not follow the history by the rules of the plan: "orrery verify" and "orrery replay" do.

Exit codes: 0 VALID, 9 INVALID, 10 INCOMPLETE, 11 UNTRUSTED, 2 for wrong use.
"""

import argparse
import base64
import binascii
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ATTESTATION = "application/vnd.in-toto+json"
LIMIT = 1 << 30  # bytes that are read of a bundle


class Invalid(Exception):
    """Something does not hold."""


class Untrusted(Exception):
    """It holds, but the signer is nobody whom the trust root knows for this."""


class Incomplete(Exception):
    """Something is missing that was asked for."""


def need(holds, *why):
    if not holds:
        raise Invalid(" ".join(str(w) for w in why))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def digest(data):
    return "sha256:" + sha256(data)


# Canonical JSON


def once(pairs):
    names = [name for name, _ in pairs]
    need(len(names) == len(set(names)), "a name stands twice in one object:", names)
    return dict(pairs)


def whole(text):
    number = int(text)
    need(abs(number) <= 2**53 - 1, "the number", text, "is out of range")
    return number


def refuse(text):
    raise Invalid(f"the number {text} is not a whole one")


def parse(data, what):
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_int=whole, parse_float=refuse, parse_constant=refuse)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise Invalid(f"{what} is no JSON: {e}") from None


def canonical(value):
    def ordered(v):
        if isinstance(v, dict):
            return {k: ordered(v[k]) for k in sorted(v, key=lambda name: name.encode("utf-16-be", "surrogatepass"))}
        return [ordered(x) for x in v] if isinstance(v, list) else v

    return json.dumps(ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def strict(data, what):
    value = parse(data, what)
    need(canonical(value) == data, what, "is not canonical")
    return value


# The archive


def octal(field):
    text = field.rstrip(b"\0 ")
    need(re.fullmatch(rb"[0-7]*", text), "a number of the archive is no octal one")
    return int(text or b"0", 8)


def archive(raw):
    """Returns the files of a tar file in the one form that a bundle has."""
    files, at, last, times = {}, 0, b"", set()
    while raw[at : at + 512].strip(b"\0"):
        head = raw[at : at + 512]
        need(len(head) == 512 and head[257:263] == b"ustar\0" and head[156:157] == b"0", "an entry of the archive is no plain file of USTAR")
        need(octal(head[148:156]) == sum(head[:148]) + 8 * 32 + sum(head[156:]), "a checksum of the archive is wrong")
        prefix, name = head[345:500].rstrip(b"\0"), head[:100].rstrip(b"\0")
        name = prefix + b"/" + name if prefix else name
        need(re.fullmatch(rb"[A-Za-z0-9_%~.\-]+(/[A-Za-z0-9_%~.\-]+)*", name) and b".." not in name.split(b"/"), "the archive holds the name", name)
        need(name > last, "the names of the archive are not in order at", name)
        need(octal(head[100:108]) == 0o644 and octal(head[108:116]) == 0 and octal(head[116:124]) == 0, name, "has another mode or owner")
        need(not head[265:329].strip(b"\0"), name, "names an owner")
        times.add(octal(head[136:148]))
        size = octal(head[124:136])
        data = raw[at + 512 : at + 512 + size]
        padding = raw[at + 512 + size : at + 512 + -(-size // 512) * 512]
        need(len(data) == size and not padding.strip(b"\0"), name, "is cut off, or followed by something")
        files[name.decode()], last, at = data, name, at + 512 + -(-size // 512) * 512
    need(raw[at:] == b"\0" * 1024, "the archive does not end with two blocks of zeros")
    need(len(times) == 1, "the files have different times")
    return files


# Signatures

JOB, BATCH = "application/vnd.orrery.job+json", "application/vnd.orrery.batch+json"


def openssl(key, data, signature):
    """Asks openssl whether a signature holds."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / "key.pem").write_text(key["public"])
        (at / "data").write_bytes(data)
        (at / "sig").write_bytes(signature)
        if key["algorithm"] == "ed25519":
            command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "data", "-sigfile", "sig"]
        else:
            command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "data"]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def pae(kind, payload):
    """What DSSE signs."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def root(leaf, proof):
    """Follows a proof of RFC 6962 from a leaf to the root."""
    node, index, last = hashlib.sha256(b"\0" + leaf).digest(), proof["index"], proof["size"] - 1
    need(0 <= index <= last, "a proof is for a leaf that is not in the tree")
    for other in (base64.b64decode(x, validate=True) for x in proof["proof"]):
        need(last > 0 and len(other) == 32, "a proof is too long")
        if index % 2 or index == last:
            node = hashlib.sha256(b"\1" + other + node).digest()
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            node = hashlib.sha256(b"\1" + node + other).digest()
        index, last = index // 2, last // 2
    need(last == 0, "a proof is too short")
    return node


def der(pem):
    body = "".join(line for line in pem.splitlines() if "-----" not in line)
    return base64.b64decode(body, validate=True)


def parts(data):
    """Takes the values of DER apart that stand one after another: their tags, contents, and whole bytes."""
    out, at = [], 0
    while at < len(data):
        need(at + 2 <= len(data), "a certificate is cut off")
        size, begin = data[at + 1], at + 2
        if size & 128:
            begin += size & 127
            size = int.from_bytes(data[at + 2 : begin], "big")
        need(begin + size <= len(data), "a certificate is cut off")
        out.append((data[at], data[begin : begin + size], data[at : begin + size]))
        at = begin + size
    return out


def moment(tag, text):
    """Spells a time of a certificate as times are spelled here."""
    text = text.decode()
    if tag == 0x17:
        text = ("19" if text >= "50" else "20") + text
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:12]}:{text[12:14]}.000000Z"


class Certificate:
    """An X.509 certificate: what was signed and how, the key, the time, the names."""

    KINDS = {bytes.fromhex("2a8648ce3d040302"): "ecdsa-p256", bytes.fromhex("2b6570"): "ed25519"}

    def __init__(self, raw):
        whole = parts(raw)
        need(len(whole) == 1, "a certificate has something after it")
        body, kind, signature = parts(whole[0][1])
        self.signed, self.signature = body[2], signature[1][1:]
        self.kind = self.KINDS.get(parts(kind[1])[0][1])
        fields = parts(body[1])
        fields = fields[1:] if fields[0][0] == 0xA0 else fields
        self.begins, self.ends = (moment(tag, text) for tag, text, _ in parts(fields[3][1]))
        key = fields[5][2]
        pem = base64.encodebytes(key).decode()
        kind = "ed25519" if bytes.fromhex("06032b6570") in key[:16] else "ecdsa-p256"
        self.key = {"algorithm": kind, "public": f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n"}
        self.names, self.authority = [], False
        for extension in (x for f in fields[6:] if f[0] == 0xA3 for x in parts(parts(f[1])[0][1])):
            pieces = parts(extension[1])
            inner = parts(parts(pieces[-1][1])[0][1]) if pieces[0][1] in (b"\x55\x1d\x11", b"\x55\x1d\x13") else []
            if pieces[0][1] == b"\x55\x1d\x11":
                self.names = [text.decode() for tag, text, _ in inner if tag == 0x86]
            elif inner and inner[0][0] == 1:
                self.authority = inner[0][1] != b"\0"


class Trust:
    """The keys that somebody trusts, each for its uses and its time."""

    def __init__(self, raw):
        doc = parse(raw, "the trust root")
        doc = doc.get("trust", doc)
        need(doc.get("version") == "orrery.keyring/v1", "the trust root has another version")
        self.keys = {}
        for key in doc["keys"]:
            need(sha256(der(key["public"])) == key["id"], "the key", key["name"], "has another id")
            self.keys[key["id"]] = key

    def find(self, keyid, use, at):
        """Returns a key that counts for a use at a claimed time."""
        key = self.keys.get(keyid)
        if key is None or use not in key["usage"]:
            raise Untrusted(f"nobody in the trust root may {use} with the key {keyid[:16]}")
        revoked = key.get("revoked")
        if at < key["notBefore"] or key.get("notAfter", "9") < at or revoked and (revoked["reason"] == "compromised" or revoked["at"] <= at):
            raise Untrusted(f"the key {keyid[:16]} of {key['name']} did not count at {at}")
        return key


class Bundle:
    """One bundle, checked part by part. What a check needs was checked before."""

    def __init__(self, files, trust, all_signed=False):
        self.files, self.trust, self.all_signed = files, trust, all_signed

    def file(self, name):
        need(name in self.files, "there is no", name)
        return self.files[name]

    def envelope(self, name, kind, use, at):
        """Returns the payload of a signed document and the key that signed it. The time is claimed, or a function of the payload."""
        e = strict(self.file(name), name)
        need(e["payloadType"] == kind and len(e["signatures"]) == 1, name, "is no document of the type", kind)
        payload = base64.b64decode(e["payload"], validate=True)
        signature, signed = e["signatures"][0], pae(kind, payload)
        key = self.trust.find(signature["keyid"], use, at(parse(payload, name)) if callable(at) else at)
        if "batch" in signature:
            need(kind == JOB, name, "is signed in a batch, as only requests are")
            batch = signature["batch"]
            signed = pae(BATCH, canonical({"root": "sha256:" + root(signed, batch).hex(), "size": batch["size"], "v": "orrery.batch/v1"}))
        need(openssl(key, signed, base64.b64decode(signature["sig"], validate=True)), "the signature of", name, "does not hold")
        return payload, key

    def manifest(self):
        self.m = strict(self.file("manifest.json"), "manifest.json")
        need(self.m["formatVersion"] == "orrery.evidence/v1", "the bundle has another version")
        listed = {f["path"]: f for f in self.m["files"]}
        need(len(listed) == len(self.m["files"]) and sorted(listed) == [f["path"] for f in self.m["files"]], "the manifest is not in order")
        need(set(listed) | {"manifest.json", "manifest.dsse.json", "SHA256SUMS"} == set(self.files), "the bundle has other files than its manifest")
        for name, f in listed.items():
            need(f["size"] == len(self.files[name]) and f["sha256"] == sha256(self.files[name]), name, "is not the file of the manifest")
        sums = "".join(f"{f['sha256']}  {f['path']}\n" for f in self.m["files"]) + f"{sha256(self.files['manifest.json'])}  manifest.json\n"
        need(sums.encode() == self.file("SHA256SUMS"), "SHA256SUMS and the manifest differ")
        return f"{len(self.files)} files"

    def history(self):
        self.events, before = [], ""
        text = self.file("timeline.ndjson")
        need(text.endswith(b"\n"), "the history is cut off")
        for number, line in enumerate(text[:-1].split(b"\n"), 1):
            e = strict(line, f"event {number}")
            claimed = e.pop("hash")
            need(digest(canonical(e)) == claimed and e["prev"] == before, "event", number, "does not follow the one before")
            need(e["seq"] == number and e["run"] == self.m["runId"] and e["tenant"] == self.m["tenant"], "event", number, "is of another place")
            self.events.append(e)
            before = claimed
        self.head = before
        self.submitted, ended = self.events[0], self.events[-1]
        need(self.submitted["type"] == "run.submitted" and ended["type"] == "run.ended", "the history has no beginning or no end")
        self.ended = ended["time"]
        need(ended["data"]["state"] == self.m["status"], "the run ended otherwise than the manifest says")
        return f"{len(self.events)} events"

    def plan(self):
        plan = strict(self.file("plan.json"), "plan.json")
        need(digest(self.file("plan.json")) == self.m["planHash"] == self.submitted["data"]["planHash"], "the plan has another hash")
        need(plan["pack"] == self.submitted["data"]["pack"], "the plan is of another pack")
        return self.m["planHash"]

    def signatures(self):
        payload, key = self.envelope("manifest.dsse.json", "application/vnd.orrery.manifest+json", "attest", self.ended)
        need(payload == self.files["manifest.json"], "the attestor signed another manifest")
        return f"by {key['name']}"

    def request(self):
        sub, name = self.submitted["data"], "request.dsse.json"
        need(digest(self.file(name)) == sub["request"], "the history names another request")
        payload, key = self.envelope(name, JOB, "submit", self.submitted["time"])
        s = strict(payload, name)
        need(s["v"] == "orrery.job/v1" and s["submitter"] == sub["submitter"] == key["name"], "somebody else signed the request")
        need(s["tenant"] == self.m["tenant"] and s.get("run", self.m["runId"]) == self.m["runId"], "the request is for another run or tenant")
        need(s["planHash"] == self.m["planHash"] and s["pack"] == sub["pack"], "the request is for another plan")
        need(s["inputsDigest"] == sub["inputsHash"] == digest(self.file("inputs.redacted.json")), "the request is for other inputs")
        return f"by {key['name']}"

    def people(self):
        seen, count = set(), {}
        for e in self.events:
            if e["type"] != "gate.decided":
                continue
            d, gate = e["data"], e["step"]
            count[gate] = count.get(gate, 0) + 1
            name = f"approvals/{step_file(gate)}.{count[gate]}.dsse.json"
            need(canonical(d["statement"]) == self.file(name), name, "is not the decision of the history")
            payload, key = self.envelope(name, ATTESTATION, "approve", d["decidedAt"])
            s = strict(payload, name)
            p = s["predicate"]
            need(s["predicateType"] == "https://orrery.example/attestation/approval/v1", name, "is no approval")
            need([x["digest"] for x in s["subject"]] == [{"sha256": self.m["planHash"][7:]}], name, "is about another plan")
            need((p["tenant"], p["run"], p["gate"], p["planHash"]) == (self.m["tenant"], self.m["runId"], gate, self.m["planHash"]), name, "is for another gate")
            need(p["approver"] == d["approver"] == key["name"] and key["id"] == d["key"], name, "is of somebody else")
            need((p["decision"], p["decidedAt"]) == (d["decision"], d["decidedAt"]), name, "says something else than the history")
            seen.add(name)
        need(seen == {n for n in self.files if n.startswith("approvals/")}, "there are approvals that the history does not know")
        return f"{len(seen)} decisions"

    def rules(self):
        seen, count = set(), {}
        for e in self.events:
            if e["type"] == "policy.decided":
                count[e["step"]] = count.get(e["step"], 0) + 1
                name = f"policy/{step_file(e['step'])}.{count[e['step']]}.json"
                need(self.file(name) == canonical(e["data"]), name, "is not what the history says")
                seen.add(name)
        need(seen == {n for n in self.files if n.startswith("policy/")}, "there are rules that the history does not know")
        return f"{len(seen)} decisions of rules"

    def transcripts(self):
        lines = {}
        for name in self.files:
            if name.startswith("transcripts/"):
                for line in self.files[name].split(b"\n")[:-1]:
                    row = strict(line, name)
                    if "stepId" in row:
                        need(name == f"transcripts/{step_file(row['stepId'])}.ndjson", name, "has a line of", row["stepId"])
                    lines.setdefault((row.get("stepId"), row.get("attempt")), []).append(row["message"])
        reported = 0
        for e in self.events:
            if e["type"] == "step.reported":
                said, have = e["data"]["transcript"], lines.get((e["step"], e["attempt"]), [])
                text = "".join(m + "\n" for m in have).encode()
                need(said["lines"] == len(have) and said.get("digest", "") == (digest(text) if have else ""), "the output of", e["step"], "is another")
                reported += 1
        return f"{reported} attempts"

    def results(self):
        signed, bare = 0, 0
        for e in self.events:
            if e["type"] != "step.reported":
                continue
            if "signed" not in e["data"]:
                bare += 1
                continue
            report = {k: v for k, v in e["data"].items() if k != "signed"} | {"worker": ""}
            word = {"v": "orrery.result/v1", "tenant": self.m["tenant"], "run": self.m["runId"], "step": e["step"], "report": digest(canonical(report))}
            text, by = pae("application/vnd.orrery.result+json", canonical(word)), e["data"]["signed"]
            if "batch" in by:
                text = pae(BATCH, canonical({"root": "sha256:" + root(text, by["batch"]).hex(), "size": by["batch"]["size"], "v": "orrery.batch/v1"}))
            key = self.worker(e, by)
            need(openssl(key, text, base64.b64decode(by["sig"], validate=True)), "the result of attempt", e["attempt"], "of", e["step"], "is not the one that its worker signed")
            signed += 1
        if bare and self.all_signed:
            raise Incomplete(f"{bare} results are not signed by their workers")
        return f"{signed} signed by their workers, {bare} not"

    def worker(self, e, by):
        """Returns the key of who signed a result: one of the trust root, or one that an authority of the trust root has certified."""
        d = e["data"]
        if "certificate" not in by:
            return self.trust.find(by["key"], "worker", d["endedAt"])
        need("key" not in by, "a result names a key and a certificate")
        c = Certificate(base64.b64decode(by["certificate"], validate=True))
        issuers = [k for k in self.trust.keys.values() if "worker" in k["usage"] and k["algorithm"] == c.kind and openssl(k, c.signed, c.signature)]
        if not issuers:
            raise Untrusted("no authority in the trust root has signed the certificate of a worker")
        need(len(c.names) == 1 and not c.authority, "a certificate names no worker")
        at = re.fullmatch(r"spiffe://[^/]+/tenant/([^/]+)/worker/[^/]*/[^/]*", c.names[0])
        need(at and at[1] == self.m["tenant"], c.names[0], "is no worker of the tenant")
        need(d["worker"] == c.names[0] or d["worker"].startswith(c.names[0] + "/"), "the certificate is not that of", d["worker"])
        need(d["endedAt"] <= c.ends and c.begins <= e["time"], "the certificate of", c.names[0], "did not last at that time")
        self.trust.find(issuers[0]["id"], "worker", d["endedAt"])
        return c.key

    def outputs(self):
        doc = strict(self.file("outputs.json"), "outputs.json")
        left = {(e["step"], a["name"], a["path"], a["digest"], a["size"]) for e in self.events for a in (e.get("data") or {}).get("artifacts") or [] if e.get("step")}
        here = set()
        for f in doc["files"]:
            need((f["step"], f["name"], f["path"], f["digest"], f["size"]) in left, "no step left", f["path"])
            if "file" in f:
                need(f["file"] == "outputs/" + f["digest"][7:] and digest(self.file(f["file"])) == f["digest"], f["file"], "has other bytes")
                here.add(f["file"])
        need(here == {n for n in self.files if n.startswith("outputs/")}, "there are bytes that no step left")
        self.values = doc
        return f"{len(doc['files'])} files, {len(here)} with their bytes"

    def attestations(self):
        name = "attestations/run.dsse.json"
        payload, _ = self.envelope(name, ATTESTATION, "attest", self.ended)
        run = strict(payload, name)
        about = {s["name"]: s["digest"]["sha256"] for s in run["subject"]}
        for n in ("plan.json", "timeline.ndjson"):
            need(about.get(n) == sha256(self.files[n]), "the attestation is about another", n)
        p = run["predicate"]
        need(run["predicateType"] == "https://orrery.example/attestation/run/v1", name, "is of another type")
        need((p["tenant"], p["runId"], p["planHash"], p["status"], p["endedAt"]) == (self.m["tenant"], self.m["runId"], self.m["planHash"], self.m["status"], self.ended), name, "is about another run")
        need(p["ledger"]["head"] == self.head and p["ledger"]["events"] == len(self.events), name, "is about another history")
        need(p["ledger"]["leaf"] == digest(self.file("audit/leaf.json")) and p["inputsDigest"] == digest(self.file("inputs.redacted.json")), name, "is about other files")
        name = "attestations/pack-run.dsse.json"
        payload, _ = self.envelope(name, "application/vnd.stellaops.pack-run+json", "attest", self.ended)
        s = strict(payload, name)
        need((s["tenant"], s["runId"], s["planHash"], s["status"], s["completedAt"]) == (self.m["tenant"], self.m["runId"], self.m["planHash"], self.m["status"], self.ended), name, "is about another run")
        files = {(o["step"], o["name"], o["path"], o["digest"]) for o in s["outputs"] if "path" in o}
        need(files == {(f["step"], f["name"], f["path"], f["digest"]) for f in self.values["files"]}, name, "has other outputs")
        count, name = 2, "attestations/provenance.dsse.json"
        need((name in self.files) == (self.m["status"] == "succeeded"), "provenance is of runs that succeeded, and of all of them")
        if name in self.files:
            payload, _ = self.envelope(name, ATTESTATION, "attest", self.ended)
            s = strict(payload, name)
            need(s["predicateType"] == "https://slsa.dev/provenance/v1", name, "is of another type")
            need(s["predicate"]["runDetails"]["metadata"]["invocationId"] == self.m["runId"], name, "is about another run")
            need(s["predicate"]["buildDefinition"]["externalParameters"]["planHash"] == self.m["planHash"], name, "is about another plan")
            count = 3
        return f"{count} signed"

    def entries(self):
        """Checks an audit stream in place of the history of a run."""
        need(set(self.files) == {"audit/checkpoint", "audit/entries.ndjson", "audit/leaf.json", "audit/proof.json"}, "an audit bundle has other files")
        text, before, number = self.file("audit/entries.ndjson"), "", 0
        need(text.endswith(b"\n"), "the entries are cut off")
        for number, line in enumerate(text[:-1].split(b"\n"), 1):
            e = strict(line, f"entry {number}")
            claimed = e.pop("hash")
            need(digest(canonical(e)) == claimed and e["prev"] == before and e["seq"] == number, "entry", number, "does not follow the one before")
            if number == 1:
                self.m = {"tenant": e["tenant"]}
            need(e["run"] == "audit" and e["tenant"] == self.m["tenant"], "entry", number, "is of another stream")
            before = claimed
        leaf = strict(self.file("audit/leaf.json"), "audit/leaf.json")
        need(leaf["v"] == "orrery.audit/v1" and leaf["tenant"] == self.m["tenant"], "the leaf is of another stream")
        need((leaf["entries"], leaf["head"]) == (number, before), leaf["entries"], "entries were sealed, and here are others")
        self.ended = leaf["sealed"]
        return f"{number} of tenant {leaf['tenant']}"

    def ledger(self):
        leaf = strict(self.file("audit/leaf.json"), "audit/leaf.json")
        need((leaf["tenant"], leaf["run"], leaf["planHash"], leaf["state"], leaf["ended"]) == (self.m["tenant"], self.m["runId"], self.m["planHash"], self.m["status"], self.ended), "the leaf is of another run")
        need(leaf["head"] == self.head and leaf["events"] == len(self.events), "the leaf is of another history")
        return self.inclusion()

    def inclusion(self):
        proof = strict(self.file("audit/proof.json"), "audit/proof.json")
        text, _, signed = self.file("audit/checkpoint").decode().partition("\n\n")
        lines = text.split("\n")
        need(len(lines) == 3 and lines[0] == proof["origin"] == "orrery.example/audit/" + self.m["tenant"], "the checkpoint is of another log")
        need(int(lines[1]) == proof["size"], "the proof is for another checkpoint")
        head = root(self.files["audit/leaf.json"], proof)
        need(base64.b64encode(head).decode() == lines[2], "the proof does not lead to the head of the log")
        for line in signed.splitlines():
            dash, name, blob = line.split(" ")
            blob = base64.b64decode(blob, validate=True)
            for key in self.trust.keys.values():
                raw = der(key["public"])[-32:]
                hint = hashlib.sha256(name.encode() + b"\n\x01" + raw).digest()[:4]
                if (dash, name) == ("\u2014", lines[0]) and "log" in key["usage"] and key["algorithm"] == "ed25519" and blob[:4] == hint:
                    need(openssl(self.trust.find(key["id"], "log", self.ended), (text + "\n").encode(), blob[4:]), "the signature of the checkpoint does not hold")
                    return f"leaf {proof['index']} of {proof['size']}, signed by {key['name']}"
        raise Untrusted("nobody in the trust root signed the checkpoint")


def step_file(step):
    """Returns how a step is called in file names."""
    name = "".join(chr(c) if re.match(rb"[A-Za-z0-9_-]", bytes([c])) or (c == 46 and i) else f"%{c:02X}" for i, c in enumerate(step.encode()))
    return name if len(name) <= 64 else name[:31] + "~" + sha256(step.encode())[:32]


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("bundle", type=Path)
    args.add_argument("trust", type=Path)
    for expected in ("run", "tenant", "plan"):
        args.add_argument("--" + expected)
    args.add_argument("--signed-results", action="store_true", help="every result must be signed by its worker")
    given = args.parse_args()
    verdict, code = "VALID", 0
    try:
        with given.bundle.open("rb") as f:
            raw = f.read(LIMIT)
        b = Bundle(archive(raw), Trust(given.trust.read_bytes()), given.signed_results)
        of_run = (b.manifest, b.history, b.plan, b.signatures, b.request, b.people, b.rules, b.transcripts, b.results, b.outputs, b.attestations, b.ledger)
        audit = "audit/entries.ndjson" in b.files and "manifest.json" not in b.files
        for check in (b.entries, b.inclusion) if audit else of_run:
            try:
                print(f"ok         {check.__name__:13} {check()}")
            except Untrusted as e:
                print(f"untrusted  {check.__name__:13} {e}")
                verdict, code = "UNTRUSTED", 11
            except Incomplete as e:
                print(f"missing    {check.__name__:13} {e}")
                verdict, code = ("INCOMPLETE", 10) if code == 0 else (verdict, code)
        for name, want, have in (("run", given.run, b.m.get("runId")), ("tenant", given.tenant, b.m["tenant"]), ("plan", given.plan, b.m.get("planHash"))):
            need(want in (None, have), f"this is the evidence of {name} {have}, not {want}")
    except (Invalid, KeyError, IndexError, TypeError, AttributeError, ValueError, binascii.Error) as e:
        print(f"wrong      {type(e).__name__}: {e}")
        verdict, code = "INVALID", 9
    except OSError as e:
        print(e, file=sys.stderr)
        return 2
    print(verdict)
    return code


if __name__ == "__main__":
    sys.exit(main())
