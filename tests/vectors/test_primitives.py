"""The slow implementation's primitives give what their standards say."""

from __future__ import annotations

import pytest

from tests.vectors.slow.ciphers import (
    SBOX,
    aes_block,
    aes_ctr,
    expand,
    expanded_key,
    extract,
    gcm_open,
    gcm_seal,
)
from tests.vectors.slow.curves import (
    ORDER,
    ed25519_public,
    ed25519_sign,
    ed25519_verify,
    x25519,
    x25519_public,
)

raw = bytes.fromhex


def test_x25519_gives_the_vectors_of_rfc_7748() -> None:
    # section 5.2
    scalar = raw("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = raw("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert x25519(scalar, u).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    nine = (9).to_bytes(32, "little")
    assert x25519(nine, nine).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    # section 6.1
    alice = raw("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = raw("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    public = x25519_public(bob)
    assert public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = x25519(alice, public)
    assert shared.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert x25519(bob, x25519_public(alice)) == shared


@pytest.mark.parametrize(
    ("private", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ],
    ids=["test 1", "test 2"],
)
def test_ed25519_gives_the_vectors_of_rfc_8032(
    private: str, public: str, message: str, signature: str
) -> None:
    # section 7.1
    assert ed25519_public(raw(private)).hex() == public
    assert ed25519_sign(raw(private), raw(message)).hex() == signature
    assert ed25519_verify(raw(public), raw(signature), raw(message))
    assert not ed25519_verify(raw(public), raw(signature), raw(message) + b"\0")
    s = int.from_bytes(raw(signature)[32:], "little") + ORDER  # section 5.1.7: s is below the order
    assert not ed25519_verify(raw(public), raw(signature)[:32] + s.to_bytes(32, "little"), raw(message))


def test_aes_256_gives_the_vectors_of_fips_197_and_sp_800_38a() -> None:
    # FIPS 197, figure 7 and appendix C.3
    assert (SBOX[0x00], SBOX[0x53], SBOX[0xFF]) == (0x63, 0xED, 0x16)
    block = aes_block(expanded_key(bytes(range(32))), raw("00112233445566778899aabbccddeeff"))
    assert block.hex() == "8ea2b7ca516745bfeafc49904b496089"
    # SP 800-38A, appendix F.5.5
    key = raw("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    text = raw(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    sealed = raw(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    stream = aes_ctr(key, 64, bytes(range(0xF0, 0x100)))
    assert bytes(a ^ b for a, b in zip(text, stream, strict=True)) == sealed


def test_the_counter_carries_over_all_128_bits() -> None:
    key = bytes(range(32))
    last = aes_block(expanded_key(key), b"\xff" * 16)
    assert aes_ctr(key, 32, b"\xff" * 16) == last + aes_block(expanded_key(key), bytes(16))


@pytest.mark.parametrize(
    ("key", "nonce", "text", "beside", "sealed"),
    [
        (
            "00" * 32,
            "00" * 12,
            "00" * 16,
            "",
            "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            "feffe9928665731c6d6a8f9467308308" * 2,
            "cafebabefacedbaddecaf888",
            (
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
            ),
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            (
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
                "76fc6ece0f4e1768cddf8853bb2d551b"
            ),
        ),
    ],
    ids=["test case 14", "test case 16"],
)
def test_gcm_gives_the_vectors_of_its_specification(
    key: str, nonce: str, text: str, beside: str, sealed: str
) -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B (the basis of SP 800-38D)
    assert gcm_seal(raw(key), raw(nonce), raw(text), raw(beside)).hex() == sealed
    assert gcm_open(raw(key), raw(nonce), raw(sealed), raw(beside)) == raw(text)
    assert gcm_open(raw(key), raw(nonce), raw(sealed), raw(beside) + b"\0") is None
    assert gcm_open(raw(key), raw(nonce), raw(sealed)[:-1] + b"\0", raw(beside)) is None


def test_hkdf_gives_the_vector_of_rfc_5869() -> None:
    # appendix A.1, of whose 42 bytes the first 32 are one block
    key = extract(bytes(range(13)), b"\x0b" * 22)
    assert key.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    info = bytes(range(0xF0, 0xFA))
    assert expand(key, info).hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
