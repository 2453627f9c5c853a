"""Reads what collect.sh gathered, and tells licences by what their texts say."""
import pathlib
import re


def modules():
    """Yields (module, version, text of its licence or None)."""
    for line in pathlib.Path("input/modules.txt").read_text().splitlines():
        module, version = line.split()
        text = pathlib.Path("input/licences") / module.replace("/", "!") / "LICENSE"
        yield module, version, text.read_text(errors="replace") if text.is_file() else None


def licence(text):
    """Returns an SPDX identifier, or None for a text that is not known."""
    if text is None:
        return None
    t = re.sub(r"\s+", " ", text)
    if "Apache License" in t and "Version 2.0" in t:
        return "Apache-2.0"
    if "Mozilla Public License" in t and "2.0" in t:
        return "MPL-2.0"
    if "Redistribution and use in source and binary forms" in t:
        return "BSD-3-Clause" if re.search(r"[Nn]either the name|names of its contributors", t) else "BSD-2-Clause"
    if "Permission to use, copy, modify, and/or distribute" in t or "Permission to use, copy, modify, and distribute" in t:
        return "ISC"
    if "Permission is hereby granted, free of charge" in t:
        return "MIT"
    if "This is free and unencumbered software released into the public domain" in t:
        return "Unlicense"
    return None
