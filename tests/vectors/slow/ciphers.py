"""AES-256 (FIPS 197), its counter and Galois/counter modes (SP 800-38A, 38D), and HKDF (RFC 5869)."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

# --- AES-256, one block ---


def _doubled(byte: int) -> int:
    """Return x times a polynomial modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, section 4.2.1)."""
    return (byte << 1 ^ (0x11B if byte & 0x80 else 0)) & 0xFF


def _product(one: int, other: int) -> int:
    total = 0
    for bit in range(8):
        if other >> bit & 1:
            total ^= one
        one = _doubled(one)
    return total


def _substitute(byte: int) -> int:
    """Return the S-box's value: the inverse, then an affine map (section 5.1.1)."""
    inverse = next((other for other in range(256) if _product(byte, other) == 1), 0)
    turned = inverse | inverse << 8
    return (inverse ^ turned >> 4 ^ turned >> 5 ^ turned >> 6 ^ turned >> 7) & 0xFF ^ 0x63


SBOX = bytes(_substitute(byte) for byte in range(256))
# MixColumns of a column that holds S-box(byte) in its first row and zeros below (section 5.1.3); what the
# other rows add is the same column turned.
_COLUMNS = [
    (_doubled(s) << 24) | (s << 16) | (s << 8) | (_doubled(s) ^ s) for s in SBOX
]  # rows 0 to 3 from the highest byte
_TABLES = [[(c >> 8 * turn | c << 32 - 8 * turn) & 0xFFFFFFFF for c in _COLUMNS] for turn in range(4)]


def expanded_key(key: bytes) -> list[int]:
    """Return the 60 words of AES-256's key schedule (section 5.2)."""
    words, constant = list(struct.unpack(">8I", key)), 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = (word << 8 | word >> 24) & 0xFFFFFFFF
        if i % 4 == 0:
            word = int.from_bytes(bytes(SBOX[byte] for byte in word.to_bytes(4, "big")), "big")
        if i % 8 == 0:
            word, constant = word ^ constant << 24, _doubled(constant)
        words.append(words[i - 8] ^ word)
    return words


def aes_block(words: Sequence[int], block: bytes) -> bytes:
    """Return the cipher of one block of 16 bytes under an expanded key (section 5.1)."""
    state = [word ^ key for word, key in zip(struct.unpack(">4I", block), words, strict=False)]
    zero, one, two, three = _TABLES
    for at in range(4, 56, 4):  # SubBytes, ShiftRows and MixColumns at once, column by column
        a, b, c, d = state
        state = [
            zero[a >> 24] ^ one[b >> 16 & 255] ^ two[c >> 8 & 255] ^ three[d & 255] ^ words[at],
            zero[b >> 24] ^ one[c >> 16 & 255] ^ two[d >> 8 & 255] ^ three[a & 255] ^ words[at + 1],
            zero[c >> 24] ^ one[d >> 16 & 255] ^ two[a >> 8 & 255] ^ three[b & 255] ^ words[at + 2],
            zero[d >> 24] ^ one[a >> 16 & 255] ^ two[b >> 8 & 255] ^ three[c & 255] ^ words[at + 3],
        ]
    rows = [word.to_bytes(4, "big") for word in state]
    last = bytes(SBOX[rows[(i + row) % 4][row]] for i in range(4) for row in range(4))  # without MixColumns
    return struct.pack(
        ">4I", *(w ^ key for w, key in zip(struct.unpack(">4I", last), words[56:], strict=True))
    )


# --- modes ---


def aes_ctr(key: bytes, size: int, first: bytes = bytes(16)) -> bytes:
    """Return so many bytes of the keystream; the counter block is one big-endian number of 128 bits."""
    words, counter = expanded_key(key), int.from_bytes(first, "big")
    blocks = [
        aes_block(words, ((counter + i) % 2**128).to_bytes(16, "big")) for i in range((size + 15) // 16)
    ]
    return b"".join(blocks)[:size]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _galois(one: int, other: int) -> int:
    """Return the product of two blocks (SP 800-38D, section 6.3)."""
    total = 0
    for bit in reversed(range(128)):
        if one >> bit & 1:
            total ^= other
        other = other >> 1 ^ (0xE1 << 120 if other & 1 else 0)
    return total


def _tag(words: Sequence[int], nonce: bytes, sealed: bytes, beside: bytes) -> bytes:
    hashed, key = 0, int.from_bytes(aes_block(words, bytes(16)), "big")
    padded = b"".join(part + bytes(-len(part) % 16) for part in (beside, sealed))
    padded += struct.pack(">2Q", 8 * len(beside), 8 * len(sealed))
    for at in range(0, len(padded), 16):
        hashed = _galois(hashed ^ int.from_bytes(padded[at : at + 16], "big"), key)
    return _xor(hashed.to_bytes(16, "big"), aes_block(words, nonce + b"\0\0\0\1"))


def gcm_seal(key: bytes, nonce: bytes, text: bytes, beside: bytes) -> bytes:
    """Return the sealed text with its tag of 16 bytes behind; the nonce has 12 bytes (section 7.1)."""
    sealed = _xor(text, aes_ctr(key, len(text), nonce + b"\0\0\0\2"))
    return sealed + _tag(expanded_key(key), nonce, sealed, beside)


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, beside: bytes) -> bytes | None:
    """Return the text, or None where the tag is not its own (section 7.2)."""
    body, tag = sealed[:-16], sealed[-16:]
    if len(sealed) < 16 or _tag(expanded_key(key), nonce, body, beside) != tag:
        return None
    return _xor(body, aes_ctr(key, len(body), nonce + b"\0\0\0\2"))


# --- HKDF with SHA-256 ---


def extract(salt: bytes, secret: bytes) -> bytes:
    """Return a key of 32 bytes (RFC 5869, section 2.2)."""
    return hmac.digest(salt, secret, "sha256")


def expand(key: bytes, info: bytes) -> bytes:
    """Return the first 32 bytes of output (section 2.3)."""
    return hmac.digest(key, info + b"\x01", "sha256")
