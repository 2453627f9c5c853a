"""Reads a table of sales, leaves out what cannot be used, and writes one file per region."""
import csv
import json
import os
import pathlib
import sys
from decimal import Decimal, InvalidOperation

source, minimum = sys.argv[1], int(sys.argv[2])
parts: dict[str, list[dict]] = {}
refused = 0
with open(source, newline="", encoding="utf-8") as f:
    for number, row in enumerate(csv.DictReader(f), start=2):
        try:
            units, price = int(row["units"]), Decimal(row["price"])
            if not row["region"].isidentifier() or price < 0:
                raise ValueError("region or price")
        except (ValueError, InvalidOperation, TypeError, KeyError) as e:
            refused += 1
            print(f"{source}:{number}: left out: {e}", file=sys.stderr)
            continue
        if units >= minimum:
            parts.setdefault(row["region"], []).append(row)

folder = pathlib.Path("parts")
folder.mkdir()
for region, rows in sorted(parts.items()):
    with open(folder / f"{region}.csv", "w", newline="", encoding="utf-8") as f:
        w = csv.DictWriter(f, fieldnames=["day", "region", "product", "units", "price"])
        w.writeheader()
        w.writerows(rows)
total = sum(map(len, parts.values()))
print(f"{total} rows in {len(parts)} regions, {refused} left out")
with open(os.environ["ORRERY_OUTPUT"], "w", encoding="utf-8") as f:
    json.dump({"regions": sorted(parts), "rows": total, "refused": refused}, f)
