"""Restores a backup into a new place and compares every row with the source."""
import hashlib
import json
import os
import pathlib
import shutil
import sqlite3

got = "sha256:" + hashlib.sha256(pathlib.Path("backup.db").read_bytes()).hexdigest()
if got != os.environ["EXPECTED"]:
    raise SystemExit(f"the backup arrived as {got}, it left as {os.environ['EXPECTED']}")
pathlib.Path("elsewhere").mkdir()
shutil.copyfile("backup.db", "elsewhere/app.db")


def content(path):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    tables = [t for (t,) in db.execute("select name from sqlite_schema where type = 'table' and name not like 'sqlite_%' order by 1")]
    result = {}
    for t in tables:
        digest, count = hashlib.sha256(), 0
        for row in db.execute(f'select * from "{t}" order by rowid'):
            digest.update(repr(row).encode())
            count += 1
        result[t] = {"rows": count, "digest": digest.hexdigest()}
    return result


before, after = content("app.db"), content("elsewhere/app.db")
pathlib.Path("out").mkdir()
pathlib.Path("out/compare.json").write_text(json.dumps({"source": before, "restored": after}, indent=1, sort_keys=True) + "\n")
rows = sum(t["rows"] for t in after.values())
print(f"{len(after)} tables, {rows} rows, identical: {before == after}")
with open(os.environ["ORRERY_OUTPUT"], "w", encoding="utf-8") as f:
    json.dump({"identical": before == after, "rows": rows}, f)
