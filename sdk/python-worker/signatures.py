"""Who asked for a run: DSSE envelopes, Ed25519 and ECDSA, with the standard library only.

Verification handles public data, so nothing here needs to take the same time for every input.
"""

import base64
import hashlib
import json
from datetime import datetime, timezone


class Refused(Exception):
    """The step must not run. `code` is the reason for the report."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# --- Ed25519, RFC 8032 section 5.1 -------------------------------------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def _add(a, b):
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    e = ((y1 + x1) * (y2 + x2) - (y1 - x1) * (y2 - x2)) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    f, g, h = d - c, d + c, ((y1 + x1) * (y2 + x2) + (y1 - x1) * (y2 - x2)) % P
    # a = (y1-x1)(y2-x2), b = (y1+x1)(y2+x2): e = b-a, h = b+a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(n, p):
    q = (0, 1, 1, 0)
    while n:
        if n & 1:
            q = _add(q, p)
        p = _add(p, p)
        n >>= 1
    return q


def _point(raw):
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = _point(bytes([0x58]) + bytes([0x66]) * 31)


def ed25519(public, message, sig):
    """Whether sig is a signature of the 32 bytes public over message."""
    if len(public) != 32 or len(sig) != 64:
        return False
    a, r, s = _point(public), _point(sig[:32]), int.from_bytes(sig[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(sig[:32] + public + message).digest(), "little") % L
    left, right = _times(s, BASE), _add(r, _times(k, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


# --- ECDSA over SHA-256 --------------------------------------------------------------------------------------------------------


class Curve:
    """y² = x³ + ax + b modulo p, with the base point g of order n."""

    def __init__(self, p, a, b, g, n):
        self.p, self.a, self.b, self.g, self.n = p, a, b, g, n

    def add(self, u, v):
        if u is None or v is None:
            return v if u is None else u
        (x1, y1), (x2, y2) = u, v
        if x1 == x2 and (y1 + y2) % self.p == 0:
            return None
        m = (3 * x1 * x1 + self.a) * pow(2 * y1, -1, self.p) if u == v else (y2 - y1) * pow(x2 - x1, -1, self.p)
        x = (m * m - x1 - x2) % self.p
        return x, (m * (x1 - x) - y1) % self.p

    def times(self, k, u):
        out = None
        while k:
            if k & 1:
                out = self.add(out, u)
            u = self.add(u, u)
            k >>= 1
        return out

    def verify(self, point, message, sig):
        x, y = point
        if not (0 <= x < self.p and 0 <= y < self.p) or (y * y - x**3 - self.a * x - self.b) % self.p:
            return False
        pair = _der_pair(sig)
        if pair is None:
            return False
        r, s = pair
        if not (0 < r < self.n and 0 < s < self.n):
            return False
        e, w = int.from_bytes(hashlib.sha256(message).digest(), "big"), pow(s, -1, self.n)
        q = self.add(self.times(e * w % self.n, self.g), self.times(r * w % self.n, point))
        return q is not None and q[0] % self.n == r


CURVES = {
    "ecdsa-p256": Curve(
        2**256 - 2**224 + 2**192 + 2**96 - 1, -3, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296, 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    "ecdsa-secp256k1": Curve(
        2**256 - 2**32 - 977, 0, 7,
        (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798, 0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    ),
}


def _der_pair(sig):
    """The two whole numbers of an ASN.1 DER signature, None for anything else."""
    if len(sig) < 8 or sig[0] != 0x30 or sig[1] != len(sig) - 2:
        return None
    out, rest = [], sig[2:]
    for _ in range(2):
        if len(rest) < 3 or rest[0] != 2 or not 0 < rest[1] <= len(rest) - 2:
            return None
        body, rest = rest[2 : 2 + rest[1]], rest[2 + rest[1] :]
        if body[0] & 0x80 or (len(body) > 1 and body[0] == 0 and not body[1] & 0x80):
            return None
        out.append(int.from_bytes(body, "big"))
    return None if rest else out


# --- keys and requests ---------------------------------------------------------------------------------------------------------


def load_trust(path):
    """The keys that may ask for runs, by their id."""
    with open(path, encoding="utf-8") as f:
        document = json.load(f)
    if document.get("version") != "orrery.keyring/v1":
        raise ValueError(f"{path} is no keyring")
    keys = {}
    for key in document["keys"]:
        lines = [line for line in key["public"].splitlines() if line and not line.startswith("-----")]
        der = base64.b64decode("".join(lines), validate=True)
        if hashlib.sha256(der).hexdigest() != key["id"]:
            raise ValueError(f"the id of the key of {key['name']} is not its own")
        if "submit" in key["usage"]:
            keys[key["id"]] = {**key, "der": der}
    return keys


def _holds(key, message, sig):
    der = key["der"]
    if key["algorithm"] == "ed25519":
        return len(der) == 44 and ed25519(der[12:], message, sig)
    curve = CURVES.get(key["algorithm"])
    if curve is None or len(der) < 65 or der[-65] != 4:  # the point, uncompressed, is the end of the DER
        return False
    return curve.verify((int.from_bytes(der[-64:-32], "big"), int.from_bytes(der[-32:], "big")), message, sig)


def now():
    """This instant as the protocol writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _pae(kind, payload):
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _batch(document, place):
    """What was signed for a document that is one of a batch: the root of the Merkle tree (RFC 6962) over them."""
    index, last = place["index"], place["size"] - 1
    if type(index) is not int or type(last) is not int or not 0 <= index <= last:
        raise ValueError("the place in the batch is none")
    node = hashlib.sha256(b"\0" + document).digest()
    for text in place["proof"]:
        other = base64.b64decode(text, validate=True)
        if last == 0 or len(other) != 32:
            raise ValueError("the proof of the batch is too long")
        if index & 1 or index == last:
            node = hashlib.sha256(b"\1" + other + node).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + other).digest()
        index, last = index >> 1, last >> 1
    if last:
        raise ValueError("the proof of the batch is too short")
    statement = b'{"root":"sha256:%s","size":%d,"v":"orrery.batch/v1"}' % (node.hex().encode(), place["size"])
    return _pae(b"application/vnd.orrery.batch+json", statement)


def check_request(raw, keys, tenant, grant, plan):
    """Raise Refused unless somebody trusted has asked for exactly this. Times compare as text: they have one form."""
    if raw is None:
        raise Refused("UNTRUSTED", "nobody has signed for the run")
    try:
        envelope = json.loads(raw)
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        key = keys.get(signature.get("keyid"))
        kind = envelope["payloadType"].encode()
        sig = base64.b64decode(signature["sig"], validate=True)
        request = json.loads(payload)
        text = _pae(kind, payload)
        if "batch" in signature:
            text = _batch(text, signature["batch"])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Refused("UNTRUSTED", f"the request cannot be read: {e}") from e
    if key is None:
        raise Refused("UNTRUSTED", "the request is signed by nobody whom this worker trusts")
    if kind != b"application/vnd.orrery.job+json" or request.get("v") != "orrery.job/v1" or not _holds(key, text, sig):
        raise Refused("UNTRUSTED", "the signature of the request does not hold")
    issued, revoked = request["issuedAt"], key.get("revoked")
    if request["submitter"] != key["name"] or issued < key["notBefore"] or (key.get("notAfter") and issued > key["notAfter"]):
        raise Refused("UNTRUSTED", "the key of the request does not count for it")
    if revoked and (revoked["reason"] != "superseded" or issued >= revoked["at"]):
        raise Refused("UNTRUSTED", "the key of the request is revoked")
    if request["tenant"] != tenant or request.get("run") != grant["run"]:
        raise Refused("UNTRUSTED", "the request is for another run")
    if request.get("expiresAt") and request["expiresAt"] < now():
        raise Refused("UNTRUSTED", "the request has expired")
    if request["planHash"] != grant["planHash"] or request["pack"] != plan["pack"]:
        raise Refused("PLAN_MISMATCH", "another plan was asked for")
