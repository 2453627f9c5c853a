"""Writes a CycloneDX bill of materials. It holds no time and no serial number: the same input gives the same bytes."""
import json
import os
import pathlib

from modules import licence, modules

components = []
for module, version, text in modules():
    entry = {"type": "library", "name": module, "version": version, "purl": f"pkg:golang/{module}@{version}",
             "bom-ref": f"pkg:golang/{module}@{version}"}
    if spdx := licence(text):
        entry["licenses"] = [{"license": {"id": spdx}}]
    components.append(entry)
bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
       "metadata": {"component": {"type": "application", "name": "orrery", "version": os.environ["VERSION"]}},
       "components": components}
pathlib.Path("out").mkdir()
pathlib.Path("out/sbom.cdx.json").write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n")
print(f"{len(components)} components")
