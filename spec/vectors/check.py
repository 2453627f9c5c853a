#!/usr/bin/env python3
"""Checks the vectors beside it with nothing but Python's standard library: every plan.json is in canonical form and has the
hash that stands beside it, every accepted document has the canonical form that is given, every refused one is refused.

    python3 spec/vectors/check.py
"""
import base64
import hashlib
import json
import pathlib
import sys

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 64


class Refused(Exception):
    """The document has no canonical form here."""


def pairs(items):
    out = {}
    for key, value in items:
        if key in out:
            raise Refused(f"key {key!r} twice")
        out[key] = value
    return out


def integer(text):
    value = int(text) if len(text) < 20 else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise Refused(f"integer {text[:24]}")
    return value


def no_fraction(text):
    raise Refused(f"fraction or exponent {text[:24]}")


def no_constant(text):
    raise Refused(text)


def check(value, depth=0):
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused("lone surrogate") from None
    elif isinstance(value, (dict, list)):
        if depth == MAX_DEPTH:
            raise Refused("too deep")
        for key in value if isinstance(value, dict) else ():
            check(key)
        for inner in value.values() if isinstance(value, dict) else value:
            check(inner, depth + 1)


def write(value):
    if isinstance(value, dict):
        # RFC 8785: names in the order of their UTF-16 code units
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(write(name) + ":" + write(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def canonical(raw):
    try:
        text = raw.decode("utf-8")
        if text.startswith("\ufeff"):
            raise Refused("byte order mark")
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=no_fraction, parse_constant=no_constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Refused(str(error)) from None
    check(value)
    return write(value).encode("utf-8")


def digest(raw):
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def raw_of(entry):
    return base64.b64decode(entry["rawBase64"]) if "rawBase64" in entry else entry.get("raw", "").encode("utf-8")


def main():
    here = pathlib.Path(__file__).resolve().parent
    wrong, count = [], 0

    def expect(truth, what):
        nonlocal count
        count += 1
        if not truth:
            wrong.append(what)

    for entry in json.loads((here / "canonical" / "accept.json").read_text("utf-8")):
        try:
            form = canonical(raw_of(entry))
        except Refused as reason:
            form = f"refused: {reason}".encode()
        expect(form == entry["canonical"].encode("utf-8") and digest(form) == entry["digest"], f"canonical/accept {entry['name']}: {form!r}")
    for entry in json.loads((here / "canonical" / "reject.json").read_text("utf-8")):
        try:
            expect(False, f"canonical/reject {entry['name']}: {canonical(raw_of(entry))!r}")
        except Refused:
            expect(True, "")
    plans = sorted((here / "plan").iterdir())
    expect(len(plans) > 0, "no plans")
    for folder in plans:
        raw = (folder / "plan.json").read_bytes()
        want = (folder / "plan.sha256").read_text("ascii").strip()
        try:
            again = canonical(raw)
        except Refused as reason:
            again = f"refused: {reason}".encode()
        expect(again == raw, f"plan/{folder.name}: not in canonical form")
        expect(digest(raw) == want, f"plan/{folder.name}: {digest(raw)} instead of {want}")
    for line in wrong:
        print(line)
    print(f"{count} checks, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
