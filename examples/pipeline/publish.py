"""Writes the table and the chart of all regions."""
import html
import json
import os
import pathlib
from decimal import Decimal

regions = [json.loads(p.read_text()) for p in sorted(pathlib.Path("summaries").glob("*.json"))]
total = sum((Decimal(r["revenue"]) for r in regions), Decimal(0))
out = pathlib.Path("out")
out.mkdir()

lines = ["| region | units | revenue | best seller |", "|---|---:|---:|---|"]
lines += [f"| {r['region']} | {r['units']} | {r['revenue']} | {r['best']} |" for r in regions]
lines += [f"| **all** | {sum(r['units'] for r in regions)} | {total:.2f} | |"]
(out / "table.md").write_text("\n".join(lines) + "\n")

top = max((Decimal(r["revenue"]) for r in regions), default=Decimal(1)) or Decimal(1)
bars = []
for i, r in enumerate(regions):
    width = int(360 * Decimal(r["revenue"]) / top)
    y = 20 + 30 * i
    bars.append(f'<text x="10" y="{y + 14}">{html.escape(r["region"])}</text>'
                f'<rect x="90" y="{y}" width="{width}" height="20" fill="#1d4ed8"/>'
                f'<text x="{96 + width}" y="{y + 14}">{r["revenue"]}</text>')
(out / "chart.svg").write_text(
    f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="{40 + 30 * len(regions)}" font-family="sans-serif" font-size="13">'
    + "".join(bars) + "</svg>\n")
print("\n".join(lines))
with open(os.environ["ORRERY_OUTPUT"], "w", encoding="utf-8") as f:
    json.dump({"total": f"{total:.2f}"}, f)
