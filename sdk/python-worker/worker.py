#!/usr/bin/env python3
"""A worker in Python with the standard library only, written from docs/reference/worker-protocol.md.

It runs steps of the kinds process, shell, python and noop without a sandbox, so it offers tier 0: it gets only steps whose author
asked for no more. Expressions in templates may be paths; whatever needs CEL is refused.
"""

import argparse
import collections
import glob
import hashlib
import json
import os
import queue
import random
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from signatures import Refused, check_request, load_trust, now


class Answer(Exception):
    """An answer of the server that is no success."""

    def __init__(self, code, message, wait=0.0):
        super().__init__(f"{code}: {message}")
        self.code, self.wait = code, wait


class Server:
    """The server, spoken to over HTTP."""

    def __init__(self, url, token, tenant):
        self.base, self.token, self.tenant = url.rstrip("/") + "/api/v1/worker/", token, tenant

    def _once(self, method, path, body=None, headers=(), timeout=60):
        request = urllib.request.Request(self.base + path, data=body, method=method, headers=dict(headers))
        request.add_header("Authorization", "Bearer " + self.token)
        if self.tenant:
            request.add_header("X-Orrery-Tenant", self.tenant)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.headers, response.read()
        except urllib.error.HTTPError as e:
            try:
                error = json.load(e)["error"]
            except (ValueError, KeyError):
                error = {"code": "UNAVAILABLE", "message": str(e)}
            raise Answer(error["code"], error["message"], float(e.headers.get("Retry-After") or 0)) from e
        except (OSError, ValueError) as e:  # no connection, or one that broke
            raise Answer("UNAVAILABLE", str(e)) from e

    def ask(self, method, path, body=None, headers=(), timeout=60, patient=True):
        """One request; trouble is waited out, with a bound that doubles."""
        failures = 0
        while True:
            try:
                return self._once(method, path, body, headers, timeout)
            except Answer as e:
                if not patient or e.code not in ("UNAVAILABLE", "EXHAUSTED", "INTERNAL"):
                    raise
                time.sleep(e.wait + random.uniform(0, min(15.0, 0.2 * 2**failures)))
                failures = min(failures + 1, 10)

    def post(self, path, message, wait=0.0, patient=True):
        body = json.dumps(message).encode()
        return json.loads(self.ask("POST", path, body, {"Content-Type": "application/json"}, wait + 30, patient)[1])

    def blob(self, digest):
        data = self.ask("GET", "blobs/" + digest, timeout=3600)[1]
        if sha(data) != digest:
            raise Refused("INPUT", f"the file {digest} came with other bytes")
        return data

    def keep(self, data):
        """Upload a file and return its digest; a large one goes in parts from where the server has got to."""
        digest, part = sha(data), 8 << 20
        if len(data) <= part:
            self.ask("PUT", "blobs/" + digest, data, {"Content-Type": "application/octet-stream"})
            return digest
        while True:
            headers, _ = self.ask("HEAD", "blobs/" + digest)
            if headers.get("Upload-Complete") == "?1":
                return digest
            at = int(headers.get("Upload-Offset", "0"))
            piece = data[at : at + part]
            span = f"bytes {at}-{at + len(piece) - 1}/{len(data)}"
            try:
                self.ask("PUT", "blobs/" + digest, piece, {"Content-Type": "application/octet-stream", "Content-Range": span})
            except Answer as e:
                if e.code not in ("CONFLICT", "INVALID"):
                    raise


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


# --- templates -------------------------------------------------------------------------------------------------------------------

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.S)
PATH = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


def lookup(path, bindings):
    if not PATH.fullmatch(path):
        raise Refused("INPUT", f"this worker evaluates paths only, not {path!r}")
    parts = path.split(".")
    value = bindings if parts[0] in ("inputs", "steps", "run") else bindings.get("vars") or {}
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            raise Refused("INPUT", f"there is no value {path!r}")
        value = value[part]
    return value


def text_of(value):
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def render(template, bindings):
    return EXPRESSION.sub(lambda m: text_of(lookup(m.group(1).strip(), bindings)), template)


# --- one attempt -----------------------------------------------------------------------------------------------------------------


class Lines:
    """The output of an attempt: numbered, without secrets, sent in order, and sent again until it is there."""

    def __init__(self, worker, lease):
        self.worker, self.lease = worker, lease
        self.lock, self.pending, self.count, self.sent = threading.Lock(), [], 0, 0
        self.digest, self.hidden, self.stale = hashlib.sha256(), {}, False

    def add(self, kind, level, text):
        for name, value in self.hidden.items():
            text = text.replace(value, f"[redacted:{name}]")
        for at in range(0, max(1, len(text)), 4000):  # never more than 16 KiB in UTF-8
            piece = text[at : at + 4000]
            with self.lock:
                self.count += 1
                self.digest.update(piece.encode() + b"\n")
                self.pending.append({"time": now(), "level": level, "type": kind, "message": piece})

    def flush(self):
        with self.lock:
            batch = self.pending[:500]
        if not batch or self.stale:
            return False
        entry = {**self.lease, "from": self.sent + 1, "lines": batch}
        result = self.worker.server.post("logs", {"session": self.worker.session, "batches": [entry]})["results"][0]
        if "error" in result:
            self.stale = True
            return False
        with self.lock:
            self.sent += len(batch)
            del self.pending[: len(batch)]
        return True

    def close(self):
        while self.flush():
            pass
        return {"lines": self.count, "digest": "sha256:" + self.digest.hexdigest()} if self.count else {"lines": 0}


class Attempt:
    """One execution under one lease."""

    def __init__(self, worker, grant):
        self.worker, self.grant = worker, grant
        self.lease = {k: grant[k] for k in ("run", "step", "token")}
        self.cancelled, self.process = threading.Event(), None
        self.lines = Lines(worker, self.lease)

    def run(self):
        self.report = {**self.lease, "startedAt": now(), "exitCode": 0, "transcript": {"lines": 0}}
        started, folder = time.monotonic(), tempfile.mkdtemp(prefix="step-", dir=self.worker.folder)
        try:
            self.prepare(folder)
            if self.spec["runner"] == "noop":
                self.end("succeeded", "SUCCEEDED")
            else:
                self.execute(folder)
            if self.report["state"] == "succeeded":
                self.collect(folder)
        except Refused as e:
            kind = {"PLAN_MISMATCH": "plan", "UNTRUSTED": "untrusted", "OUTPUT": "output"}.get(e.code, "input")
            self.end("failed", e.code, kind, str(e))
        except (Answer, OSError, ValueError, KeyError) as e:
            self.end("failed", "INPUT", "input", str(e))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.report["transcript"] = self.lines.close()
        self.report["endedAt"] = now()
        self.report["protections"] = {"tier": 0, "label": "none", "layers": {}}
        self.report["usage"] = {"wallMs": int(1000 * (time.monotonic() - started)), "cpuMs": 0, "maxRssBytes": 0}
        return self.report

    def end(self, state, code, kind="", message=""):
        self.report["state"], self.report["reason"] = state, {"code": code, "message": message}
        if kind:
            self.report["class"] = kind

    def prepare(self, folder):
        plan = self.worker.plan(self.grant)
        step_id = re.sub(r"\[\d+\](?=::)", "[*]", self.grant["step"])
        step = next((s for s in plan["steps"] if s["id"] == step_id and "run" in s), None)
        if step is None:
            raise Refused("PLAN_MISMATCH", f"the plan has no step {self.grant['step']}")
        self.spec, self.bindings = step["run"], self.grant.get("bindings") or {}
        self.check_values(plan, step_id)
        self.environ(folder)
        for f in plan.get("files") or []:
            self.place(folder, f["path"], f["digest"], f.get("executable"))
        for b in self.bindings.get("artifacts") or []:
            a, to = b["artifact"], b["to"]
            if b["index"] >= 0:
                to = os.path.join(to, f"{b['index']:06d}-{os.path.basename(a['path'])}")
            elif to.endswith("/"):
                to += a["path"]
            self.place(folder, to, a["digest"], a.get("executable"))
        os.makedirs(os.path.join(folder, ".orrery"), exist_ok=True)

    def check_values(self, plan, step_id):
        """Hold the values of the lease to what the plan decides."""
        inputs = {i["name"]: i for i in plan.get("inputs") or []}
        if "/" not in step_id:
            for name, value in (self.bindings.get("inputs") or {}).items():
                if name not in inputs or inputs[name].get("value") != value:
                    raise Refused("PLAN_MISMATCH", f"the input {name} has another value than in the plan")
        wanted, given = self.spec.get("secrets") or {}, self.bindings.get("secrets") or {}
        if set(wanted) != set(given):
            raise Refused("PLAN_MISMATCH", "the secrets are not those of the plan")
        for env, name in wanted.items():
            if "/" not in step_id and inputs.get(name, {}).get("secret") != given[env]:
                raise Refused("PLAN_MISMATCH", f"the secret {name} is not the one of the plan")
            if "/" in step_id:
                raise Refused("INPUT", "this worker does not follow secrets into sub-packs")

    def environ(self, folder):
        g = self.grant
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "LANG": "C.UTF-8", "ORRERY_TENANT": self.worker.tenant, "ORRERY_RUN": g["run"],
            "ORRERY_RUN_NAME": g["runName"], "ORRERY_STEP": g["step"], "ORRERY_ATTEMPT": str(g["attempt"]), "ORRERY_PLAN_HASH": g["planHash"],
            "TRACEPARENT": g.get("trace", ""), "ORRERY_OUTPUT": os.path.join(folder, ".orrery", "output"),
        }
        for name, template in (self.spec.get("env") or {}).items():
            self.env[name] = render(template, self.bindings)
        for name, reference in (self.bindings.get("secrets") or {}).items():
            kind, _, where = reference.partition(":")
            try:
                value = os.environ[where] if kind == "env" else open(where, encoding="utf-8").read().rstrip("\r\n")
            except (OSError, KeyError) as e:
                raise Refused("INPUT", f"the secret {name} is not there") from e
            if len(value) < 8:
                raise Refused("INPUT", f"the secret {name} is too short to be kept out of the output")
            self.env[name] = value
            self.lines.hidden[self.spec["secrets"][name]] = value

    def place(self, folder, to, digest, executable):
        target = os.path.normpath(os.path.join(folder, to))
        if not target.startswith(folder + os.sep):
            raise Refused("INPUT", f"{to!r} is no path inside the workspace")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as f:
            f.write(self.worker.server.blob(digest))
        os.chmod(target, 0o755 if executable else 0o644)

    def command(self):
        s, args = self.spec, [render(a, self.bindings) for a in self.spec.get("args") or []]
        if s["runner"] == "process":
            return [render(a, self.bindings) for a in s["command"]]
        if s["runner"] == "shell":
            return ["/bin/sh", "-e", "-c", s["script"], "sh", *args]
        return ["python3", s["file"], *args] if s.get("file") else ["python3", "-c", s["script"], *args]

    def execute(self, folder):
        limit, grace = self.spec["timeoutMs"] / 1000, self.spec["graceMs"] / 1000
        self.process = subprocess.Popen(
            self.command(), env=self.env, cwd=os.path.join(folder, self.spec.get("dir") or "."), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )
        readers = [
            threading.Thread(target=self.follow, args=(stream, kind, level), daemon=True)
            for stream, kind, level in ((self.process.stdout, "step.stdout", "info"), (self.process.stderr, "step.stderr", "warn"))
        ]
        for r in readers:
            r.start()
        deadline, acked, timed_out = time.monotonic() + limit, False, False
        stop_at = None
        while self.process.poll() is None:
            self.cancelled.wait(0.05) if stop_at is None else time.sleep(0.05)
            self.lines.flush()
            if not acked and time.monotonic() > deadline - limit + 1:
                acked = True
                self.worker.server.post("ack", {"session": self.worker.session, "leases": [self.lease]})
            timed_out = timed_out or time.monotonic() > deadline
            if stop_at is None and (timed_out or self.cancelled.is_set()):
                stop_at = time.monotonic() + grace
                self.signal(signal.SIGTERM)
            if stop_at is not None and time.monotonic() > stop_at:
                self.signal(signal.SIGKILL)
        self.signal(signal.SIGKILL)  # whatever it has started and left behind
        for r in readers:
            r.join(5)
        code = self.process.returncode
        self.report["exitCode"] = code if code >= 0 else 128 - code
        if self.cancelled.is_set():
            self.end("cancelled", "CANCELLED", "cancelled", "stopped on request")
        elif timed_out:
            self.end("timed-out", "TIMEOUT", "timeout", f"stopped after {limit} s")
        elif code < 0:
            self.end("failed", "SIGNALED", "signal", f"ended by signal {-code}")
        elif code:
            self.end("failed", "EXIT_CODE", "exit", f"exit code {code}")
        else:
            self.end("succeeded", "SUCCEEDED")

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def follow(self, stream, kind, level):
        for line in stream:
            self.lines.add(kind, level, line.rstrip("\r\n"))

    def collect(self, folder):
        values, outputs, artifacts = self.values(folder), {}, []
        for o in self.spec.get("outputs") or []:
            if o.get("path"):
                found = [f for f in glob.glob(os.path.join(folder, o["path"]), recursive=True) if os.path.isfile(f) and not os.path.islink(f)]
                for path in found:
                    artifacts.append(self.artifact(folder, o["name"], path))
            else:
                found = o["name"] in values
                if found:
                    outputs[o["name"]] = typed(values[o["name"]], o.get("type") or "string", o["name"])
            if not found and not o.get("optional"):
                raise Refused("OUTPUT", f"the output {o['name']} is missing")
        if any(v in json.dumps(outputs) for v in self.lines.hidden.values()):
            raise Refused("OUTPUT", "a secret is in the outputs")
        if outputs:
            self.report["outputs"] = outputs
        self.report["artifacts"] = sorted(artifacts, key=lambda a: (a["name"], a["path"]))

    def artifact(self, folder, name, path):
        with open(path, "rb") as f:
            data = f.read()
        if any(v.encode() in data for v in self.lines.hidden.values()):
            raise Refused("OUTPUT", f"a secret is in a file of output {name}")
        digest = self.worker.server.keep(data)
        out = {"name": name, "path": os.path.relpath(path, folder), "digest": digest, "size": len(data)}
        return {**out, "executable": True} if os.access(path, os.X_OK) else out

    def values(self, folder):
        try:
            with open(os.path.join(folder, ".orrery", "output"), encoding="utf-8") as f:
                text = f.read()
        except FileNotFoundError:
            return {}
        if text.lstrip().startswith("{"):
            return json.loads(text)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def typed(value, kind, name):
    try:
        if kind == "integer":
            return int(value)
        if kind == "boolean":
            return {"true": True, "false": False}[str(value).lower()]
        if kind == "json":
            return json.loads(value) if isinstance(value, str) else value
    except (ValueError, KeyError) as e:
        raise Refused("OUTPUT", f"the output {name} is no {kind}") from e
    return text_of(value)


# --- the worker --------------------------------------------------------------------------------------------------------------------


class Worker:
    """One session: claims, runs, reports."""

    def __init__(self, options):
        with open(options.token_file, encoding="utf-8") as f:
            token = f.read().strip()
        self.server = Server(options.server, token, options.tenant)
        self.keys = load_trust(options.trust)
        self.name, self.slots, self.folder = options.name, options.slots, options.dir
        self.offer = {"runners": ["process", "shell", "python", "noop"], "labels": dict(label.split("=", 1) for label in options.label), "tier": 0}
        self.session, self.tenant = "", options.tenant
        self.lock, self.running, self.plans = threading.Lock(), {}, collections.OrderedDict()
        self.done, self.leaving, self.resync = queue.Queue(), threading.Event(), False

    def plan(self, grant):
        """The plan of a lease, after both checks: that it is the plan, and that somebody trusted asked for it."""
        digest = grant["planHash"]
        plan = self.plans.get(digest)
        if plan is None:
            raw = self.server.ask("GET", "plans/" + digest)[1]
            if sha(raw) != digest:
                raise Refused("PLAN_MISMATCH", "the plan does not hash to the plan hash")
            plan = self.plans[digest] = json.loads(raw)
            if len(self.plans) > 64:
                self.plans.popitem(last=False)
        try:
            request = self.server.ask("GET", f"runs/{grant['run']}/request")[1]
        except Answer as e:
            if e.code != "NOT_FOUND":
                raise
            request = None
        check_request(request, self.keys, self.tenant, grant, plan)
        return plan

    def register(self):
        self.session = "ses_" + secrets.token_hex(16)
        self.welcome = self.server.post(
            "sessions", {"session": self.session, "worker": self.name, "version": "python", "slots": self.slots, "offer": self.offer}
        )
        if self.tenant and self.tenant != self.welcome["tenant"]:
            raise SystemExit("the server takes this worker for one of another tenant")
        self.tenant = self.welcome["tenant"]
        print(f"joined as {self.welcome['worker']}", flush=True)

    def lost(self, session):
        """The session is gone: what runs under it must stop, and a new one begins."""
        with self.lock:
            if session != self.session:
                return
            for attempt in self.running.values():
                attempt.lines.stale = True
                attempt.cancelled.set()
            self.register()

    def beat(self):
        heard = time.monotonic()
        while True:
            with self.lock:
                session, runs = self.session, sorted({a.grant["run"] for a in self.running.values()})
            wait = 2000 if runs else self.welcome["heartbeatMs"]
            try:
                orders = self.server.post("heartbeat", {"session": session, "waitMs": wait, "runs": runs}, wait / 1000, patient=False)
                heard = time.monotonic()
            except Answer as e:
                if e.code == "NOT_FOUND" or time.monotonic() - heard > self.welcome["sessionMs"] / 1000:
                    self.lost(session)
                time.sleep(random.uniform(0, 1))
                continue
            for lease in orders.get("cancel") or []:
                with self.lock:
                    attempt = self.running.get(key(lease))
                if attempt:
                    attempt.cancelled.set()
            if orders.get("drain"):
                self.leaving.set()

    def start(self, grant):
        attempt = Attempt(self, grant)
        with self.lock:
            self.running[key(attempt.lease)] = attempt

        def work():
            report = attempt.run()
            with self.lock:
                del self.running[key(attempt.lease)]
            self.done.put(report)

        threading.Thread(target=work, daemon=True).start()

    def reports(self, block):
        out = []
        try:
            out.append(self.done.get(timeout=block) if block else self.done.get_nowait())
            while True:
                out.append(self.done.get_nowait())
        except queue.Empty:
            return out

    def run(self):
        self.register()
        threading.Thread(target=self.beat, daemon=True).start()
        while True:
            with self.lock:
                free = 0 if self.leaving.is_set() else self.slots - len(self.running)
                idle = not self.running
            reports = self.reports(0 if free > 0 else 0.5)
            if not reports and free <= 0:
                if self.leaving.is_set() and idle and self.done.empty():
                    return
                continue
            self.exchange(reports, free)

    def exchange(self, reports, free):
        with self.lock:
            held = [a.lease for a in self.running.values()]
            session = self.session
        # One thread claims and reports, so a claim waits only for as long as a report may.
        wait = 0 if reports else (500 if held else min(5000, self.welcome["maxWaitMs"]))
        message = {"session": session, "worker": self.name, "offer": self.offer, "max": free, "waitMs": wait, "reports": reports}
        if self.resync:
            message.update(resync=True, holding=held)
        try:
            answer = self.server.post("exchange", message, wait / 1000, patient=False)
        except Answer as e:
            if e.code == "NOT_FOUND":
                self.lost(session)  # the reports were taken or refused before
                return
            self.resync = True
            for report in reports:
                self.done.put(report)
            time.sleep(e.wait + random.uniform(0, 1))
            return
        self.resync = False
        for grant in answer.get("grants") or []:
            self.start(grant)


def key(lease):
    return lease["run"], lease["step"], lease["token"]["incarnation"], lease["token"]["epoch"]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--server", required=True)
    p.add_argument("--token-file", required=True)
    p.add_argument("--trust", required=True, help="keyring file with the keys of those whose runs are taken")
    p.add_argument("--tenant", default="")
    p.add_argument("--name", default="python")
    p.add_argument("--slots", type=int, default=1)
    p.add_argument("--label", action="append", default=[])
    p.add_argument("--dir", default=None, help="folder for workspaces")
    worker = Worker(p.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: worker.leaving.set())
    worker.run()


if __name__ == "__main__":
    main()
