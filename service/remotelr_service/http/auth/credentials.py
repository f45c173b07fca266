"""What a token looks like: `rlr_`, 256 random bits in Base62, and a checksum that tells a misread one from a real one.

The form is GitHub's: its prefix is found by scanners for secrets, and its checksum is looked at before anything else
is. A token is made once and shown once. What is kept is its SHA-256: of 256 random bits nothing can be guessed, so
that a slow hash would only be slow.
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
    """A token that nobody had before, of 53 characters."""
    random = _base62(secrets.randbits(_RANDOM_BITS), _RANDOM_LENGTH)
    return f"{PREFIX}{random}{_checksum(random)}"


def is_token(text: str) -> bool:
    """Whether this could be a token: its form and its checksum are right."""
    found = _FORM.fullmatch(text)
    return found is not None and hmac.compare_digest(_checksum(found[1]), found[2])


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(random: str) -> str:
    return _base62(zlib.crc32(random.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
