"""Judges the licence of every module that is linked in."""
import json
import os
import pathlib
import sys

from modules import licence, modules

allowed = set(sys.argv[1].split(","))
found = [{"module": m, "version": v, "licence": licence(t)} for m, v, t in modules()]
refused = [f["module"] for f in found if f["licence"] not in allowed]
pathlib.Path("out").mkdir()
pathlib.Path("out/licences.json").write_text(json.dumps(found, indent=1) + "\n")
for f in found:
    print(f"{f['licence'] or 'unknown':14} {f['module']} {f['version']}")
with open(os.environ["ORRERY_OUTPUT"], "w", encoding="utf-8") as f:
    json.dump({"refused": refused, "modules": len(found)}, f)
