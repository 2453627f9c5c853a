"""Measures one planet: a number that anybody gets again from the name alone."""
import hashlib
import json
import os
import pathlib

planet = os.environ["PLANET"]
period = int.from_bytes(hashlib.sha256(planet.encode()).digest()[:2], "big")
out = pathlib.Path("out")
out.mkdir(exist_ok=True)
(out / f"{planet}.json").write_text(json.dumps({"planet": planet, "period": period}) + "\n")
print(f"{planet}: period {period}")
