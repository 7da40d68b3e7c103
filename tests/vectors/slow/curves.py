"""X25519 (RFC 7748) and Ed25519 (RFC 8032) in whole numbers."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
A24 = 121665  # RFC 7748, section 5: (486662 - 2) / 4
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


# --- X25519 ---


def x25519(private: bytes, public: bytes) -> bytes:
    """Return the u-coordinate of private x public, 32 bytes (RFC 7748, section 5)."""
    scalar = int.from_bytes(private, "little")
    scalar = scalar & ~7 & (1 << 255) - 1 | 1 << 254
    u = int.from_bytes(public, "little") % (1 << 255) % P
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in reversed(range(255)):
        swap = scalar >> bit & 1
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
        plus, minus = x2 + z2, x2 - z2
        squared_plus, squared_minus = plus * plus % P, minus * minus % P
        difference = squared_plus - squared_minus
        left, right = (x3 - z3) * plus % P, (x3 + z3) * minus % P
        x3, z3 = (left + right) ** 2 % P, u * (left - right) ** 2 % P
        x2, z2 = squared_plus * squared_minus % P, difference * (squared_plus + A24 * difference) % P
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def x25519_public(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return x25519(private, (9).to_bytes(32, "little"))


# --- Ed25519 ---

Point = tuple[int, int, int, int]  # X, Y, Z, T with x = X / Z, y = Y / Z, x y = T / Z
NEUTRAL: Point = (0, 1, 1, 0)


def add(one: Point, other: Point) -> Point:
    """Return the sum of two points (RFC 8032, section 5.1.4)."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar: int, point: Point) -> Point:
    """Return a multiple of a point."""
    total = NEUTRAL
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point = add(point, point)
        scalar >>= 1
    return total


def negative(point: Point) -> Point:
    """Return the point with the other x."""
    return P - point[0], point[1], point[2], P - point[3]


def compressed(point: Point) -> bytes:
    """Return a point's 32 bytes: y, with the sign of x in the highest bit (section 5.1.2)."""
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decompressed(data: bytes) -> Point | None:
    """Return the point of 32 bytes, or None where there is none (section 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y % (1 << 255)
    if y >= P:
        return None
    squared = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(squared, (P + 3) // 8, P)
    if x * x % P != squared:
        x = x * ROOT_OF_MINUS_ONE % P
    if x * x % P != squared or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


_BASE = decompressed((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
assert _BASE is not None
BASE: Point = _BASE


def _number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def _expanded(private: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(private).digest()
    return int.from_bytes(digest[:32], "little") & ~7 & (1 << 255) - 1 | 1 << 254, digest[32:]


def ed25519_public(private: bytes) -> bytes:
    """Return the public key of a private one (section 5.1.5)."""
    return compressed(times(_expanded(private)[0], BASE))


def ed25519_sign(private: bytes, message: bytes) -> bytes:
    """Return the signature, 64 bytes (section 5.1.6)."""
    scalar, prefix = _expanded(private)
    public = compressed(times(scalar, BASE))
    r = _number(prefix, message) % ORDER
    commitment = compressed(times(r, BASE))
    s = (r + _number(commitment, public, message) * scalar) % ORDER
    return commitment + s.to_bytes(32, "little")


def ed25519_verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature is valid (section 5.1.7, without cofactor: [S]B - [k]A, in bytes, is R)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    point, s = decompressed(public), int.from_bytes(signature[32:], "little")
    if point is None or s >= ORDER:
        return False
    k = _number(signature[:32], public, message) % ORDER
    return compressed(add(times(s, BASE), times(k, negative(point)))) == signature[:32]
