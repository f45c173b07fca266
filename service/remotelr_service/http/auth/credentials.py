"""The format of tokens: `rlr_`, 256 random bits in Base62, and a checksum.

Scanners for secrets find the prefix, as with GitHub's tokens. A wrong checksum is rejected without a look-up. The
service stores the SHA-256 of a token: 256 random bits cannot be guessed, so a slow hash has no benefit.
"""

import hashlib
import hmac
import re
import secrets
import zlib

from remotelr_service.logs import PREFIX

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_BITS = 256
# 62 ** 43 is the first power of 62 above 2 ** 256, and 62 ** 6 the first above 2 ** 32.
_RANDOM_LENGTH, _CHECKSUM_LENGTH = 43, 6
_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{_RANDOM_LENGTH}}})([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})")


def new_token() -> str:
    """A new random token of 53 characters."""
    random = _base62(secrets.randbits(_RANDOM_BITS), _RANDOM_LENGTH)
    return f"{PREFIX}{random}{_checksum(random)}"


def is_token(text: str) -> bool:
    """Whether the text has the format and the checksum of a token."""
    found = _FORM.fullmatch(text)
    return found is not None and hmac.compare_digest(_checksum(found[1]), found[2])


def digest(token: str) -> str:
    """The stored SHA-256 of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(random: str) -> str:
    return _base62(zlib.crc32(random.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
