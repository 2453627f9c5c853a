"""Sums up the sales of one region, exactly: money is decimal, never binary."""
import csv
import json
import pathlib
import sys
from decimal import Decimal

source = pathlib.Path(sys.argv[1])
revenue, units, products = Decimal(0), 0, {}
with open(source, newline="", encoding="utf-8") as f:
    for row in csv.DictReader(f):
        sold = int(row["units"])
        revenue += sold * Decimal(row["price"])
        units += sold
        products[row["product"]] = products.get(row["product"], 0) + sold
best = max(sorted(products), key=products.get)
out = pathlib.Path("out")
out.mkdir()
summary = {"region": source.stem, "units": units, "revenue": f"{revenue:.2f}", "best": best}
(out / f"{source.stem}.json").write_text(json.dumps(summary, sort_keys=True) + "\n")
print(f"{source.stem}: {units} units, {revenue:.2f}, best seller {best}")
