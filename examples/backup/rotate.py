"""Keeps the newest generations of a backup. Earlier ones lie in the folder previous/ beside the manifest, if there are any."""
import hashlib
import json
import os
import pathlib
import shutil

keep = int(os.environ["KEEP"])
folder = pathlib.Path("generations")
folder.mkdir()
earlier = sorted(pathlib.Path("previous").glob("*.db")) if pathlib.Path("previous").is_dir() else []
generations = [pathlib.Path("backup.db"), *reversed(earlier)]
index = []
for number, path in enumerate(generations):
    if number >= keep:
        print(f"let go: {path.name}")
        continue
    target = folder / f"generation-{number:02d}.db"
    shutil.copyfile(path, target)
    index.append({"file": target.name, "sha256": hashlib.sha256(target.read_bytes()).hexdigest()})
(folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
print(f"kept {len(index)} of {len(generations)} generations")
