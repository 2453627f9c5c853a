"""Writes the report. Its digest is an output of the run, and so part of the signed evidence."""
import collections
import hashlib
import json
import os
import pathlib

licences = json.loads(pathlib.Path("licences.json").read_text())
files = pathlib.Path("digests.txt").read_text().splitlines()
counts = collections.Counter(l["licence"] for l in licences)
lines = [f"# Release {os.environ['VERSION']}", "", f"Source: `sha256:{os.environ['SOURCE']}`, {len(files)} files.", "",
         "| licence | modules |", "|---|---:|"]
lines += [f"| {name} | {n} |" for name, n in sorted(counts.items(), key=lambda x: str(x[0]))]
lines += ["", "| document | SHA-256 |", "|---|---|"]
for name in ("digests.txt", "licences.json", "sbom.cdx.json"):
    lines.append(f"| {name} | `{hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()}` |")
pathlib.Path("out").mkdir()
pathlib.Path("out/report.md").write_text("\n".join(lines) + "\n")
print("\n".join(lines))
