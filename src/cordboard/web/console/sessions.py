"""Who is logged in: a cookie that every process with the same admin token can read, and nobody else.

Nothing is kept on the server. A session ends after its time, with its cookie at logout, and, all of them at
once, when the admin token changes, because the key is derived from that.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from typing import Final, NamedTuple

import orjson
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cordboard.clock import SECOND_US

# A shift, and the hand-over after it.
SESSION_S: Final = 12 * 3_600
# 192 bits, as every secret of ours.
FORM_TOKEN_BYTES: Final = 24


class Session(NamedTuple):
    # The name that was given at login.
    operator: str
    # What a form of this session must bring back.
    form_token: str


class Sessions:
    def __init__(self, admin_token: str) -> None:
        self._admin_token = admin_token.encode()
        self._cookies = self._box(b"cordboard console: cookie")
        # With another key, so that what an operator typed can never be read as a session.
        self._values = self._box(b"cordboard console: value of a form")

    def accepts(self, given_token: str) -> bool:
        """Whether this is the admin token, in constant time."""
        return hmac.compare_digest(given_token.encode(errors="surrogatepass"), self._admin_token)

    def begin(self, operator: str, now_us: int) -> str:
        """The cookie of a new session."""
        said = orjson.dumps([operator, secrets.token_urlsafe(FORM_TOKEN_BYTES)])
        return self._cookies.encrypt_at_time(said, now_us // SECOND_US).decode()

    def read(self, cookie: str, now_us: int) -> Session | None:
        """The session of a cookie; None for one that is not ours, or too old."""
        said = _opened(self._cookies, cookie, now_us)
        return None if said is None else Session(*orjson.loads(said))

    def seal(self, value: str, now_us: int) -> str:
        """A value that goes into a form and comes back, and which the page must not show."""
        return self._values.encrypt_at_time(value.encode(), now_us // SECOND_US).decode()

    def unseal(self, sealed: str, now_us: int) -> str | None:
        """None for what was not sealed here, or too long ago."""
        value = _opened(self._values, sealed, now_us)
        return None if value is None else value.decode()

    def _box(self, purpose: bytes) -> Fernet:
        key = HKDF(SHA256(), length=32, salt=None, info=purpose).derive(self._admin_token)
        return Fernet(base64.urlsafe_b64encode(key))


def _opened(box: Fernet, token: str, now_us: int) -> bytes | None:
    try:
        return box.decrypt_at_time(token.encode(), SESSION_S, now_us // SECOND_US)
    except (InvalidToken, UnicodeEncodeError):
        return None
