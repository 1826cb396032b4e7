"""Settings of the engine: `CORDBOARD_*` in the environment, or `cordboard.toml` beside it.

Every field says its unit, its default and the reason; settings of a tenant are elsewhere (routing/tenant.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import shutil
from enum import Enum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made inside it.
# A board of 100,000 allocations takes some 100 MB; below twice that a container's 64 MB of shared
# memory would run full in service, and LMDB cannot recover from that.
SHARED_MEMORY_FREE_MIN_BYTES: Final = 256 << 20
# AES-256.
DATA_KEY_BYTES: Final = 32

# One of the hosts of a database; an IPv6 address stands in brackets.
_HOST_AND_PORT: Final = re.compile(r"(\[[^]]*\]|[^:]*)(:[0-9]{1,5})?", re.ASCII)
_HOST_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII | re.IGNORECASE)


class LogFormat(Enum):
    AUTO = "auto"
    JSON = "json"
    HUMAN = "human"


def _listed(value: object) -> object:
    """`a, b` as the environment has it; a list, as a file may."""
    return [item for part in value.split(",") if (item := part.strip())] if isinstance(value, str) else value


def _host_or_network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        # What looks like an address and is none would open nothing.
        if not _HOST_NAME.fullmatch(text) or text.replace(".", "").isdigit():
            raise ValueError(f"{text}: neither a host name nor an address or network") from None
    return text


HostsAndNetworks = Annotated[
    tuple[Annotated[str, AfterValidator(_host_or_network)], ...], NoDecode, BeforeValidator(_listed)
]


def _network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text}: neither an address nor a network") from None
    return text


Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_listed)]
Ports = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65_535)], ...],
    NoDecode,
    BeforeValidator(_listed),
    Field(min_length=1),
]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="CORDBOARD_", toml_file="cordboard.toml", extra="forbid", frozen=True
    )

    data_dir: Path = Field(
        default=Path("data"),
        description="Directory of the embedded database, the admin token and the locks.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="Another PostgreSQL instead of the embedded one (several hosts may be named).",
    )
    board_dir: Path | None = Field(
        default=None,
        description="Directory of the board; by default in shared memory, else under data_dir.",
    )
    admin_token: SecretStr | None = Field(
        default=None,
        description="Token of /admin/v1 and /console; by default one is made, in data_dir/admin-token.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that answer calls and the API, one for each core that is to do so; with 0,"
        " everything is done by one process.",
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning|error)$",
        description="Least serious log lines to write.",
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="`json`, `human`, or `auto`: people's words where stderr is a terminal, else JSON.",
    )
    log_hops: bool = Field(
        default=True,
        description="Whether every hop of every call is a line of `info`; some 8 µs and 330 bytes each.",
    )
    otel_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description=(
            "Address of an OpenTelemetry collector (OTLP over HTTP, port 4318) that gets traces; needs the"
            " extra `otel`. OTEL_EXPORTER_OTLP_ENDPOINT does the same."
        ),
    )
    trusted_proxies: Networks = Field(
        default=(),
        description=(
            "Addresses or networks, with commas between, of proxies of yours: the X-Request-Id that they send"
            " is taken over. Nobody else's is."
        ),
    )
    answer_timeout_s: float = Field(
        default=1.0,
        gt=0,
        le=4,
        description="Time for one applet request, in s; over it nobody is connected. Platforms wait 5 s.",
    )
    connections_max: int = Field(
        default=5_000,
        ge=1,
        # A platform's 200 calls/s with a connection each and 20 s of keep-alive are 4,000. One that waits
        # takes 2 kB of the process, 10 MB in all. One whose client says all that it may before anybody
        # knows who it is has some 200 KiB of head and 128 KiB of body: 1.6 GB in all at the very worst.
        description="Connections at the same time; one more is answered 503.",
    )
    header_timeout_s: float = Field(
        default=10.0,
        gt=0,
        # The longest head is 96 KiB, which a line of 100 kbit/s takes 8 s for.
        description="Time from the first byte of a request to the end of its headers, in s; then 408.",
    )
    body_timeout_s: float = Field(
        default=60.0,
        gt=0,
        # The largest body is 4 MiB, which a line of 1 Mbit/s takes 34 s for.
        description="Time for a body to arrive, in s, and for which an answer may stay unread.",
    )
    propagation_timeout_s: float = Field(
        default=1.0,
        gt=0,
        description="How long a change waits for this node's board, in s, before it is answered as pending.",
    )
    staleness_max_s: float = Field(
        default=5.0,
        gt=0,
        description="A board that has not seen the feed for longer, in s, makes the node unready.",
    )
    spool_bytes_max: int = Field(
        default=64 << 20,
        ge=64 << 10,
        description="Room for outcomes and ends of calls while the database is away, in bytes; at 1 kB each "
        "the default is 50 minutes of 20 a second. When it is full, what needs a record is refused.",
    )
    bulk_items_max: int = Field(default=100, ge=1, description="Items of one bulk update (exotel.md 8.5).")
    bulk_create_items_max: int = Field(
        default=1_000, ge=1, description="Items of one bulk create; a thousand are some seconds of commits."
    )
    postal_regions: Path | None = Field(
        default=None,
        description="CSV file (prefix,area,region) in place of the package's table of postal codes.",
    )
    webhook_timeout_s: float = Field(default=5.0, gt=0, description="Time for one delivery attempt, in s.")
    webhook_give_up_after_s: float = Field(
        default=86_400,
        gt=0,
        description="Age, in s, at which an event that nobody took is kept as dead; by default a day.",
    )
    callback_allow: HostsAndNetworks = Field(
        default=(),
        description=(
            "Hosts, addresses or networks, with commas between, where events may go although they are not on"
            " the internet, whatever the port; by default none, so that no tenant reaches your own network."
        ),
    )
    callback_ports: Ports = Field(
        default=(80, 443, 8080, 8443),
        description="Ports, with commas between, that events may go to; those of the web.",
    )
    data_key: SecretStr | None = Field(
        default=None,
        description=(
            "Base64 of 32 bytes (`cordboard data-key new`): told events and kept answers are sealed with it;"
            " without one events are masked. Of several, separated by commas, the first seals and all open."
        ),
    )
    dead_letter_days: int = Field(
        default=7,
        ge=1,
        le=3_650,
        description="Without a data key, how long a dead event stays whole and can be replayed, in days.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's.
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, given: SecretStr | None) -> SecretStr | None:
        """What the driver would stumble over with a traceback. Quotes nothing: it may hold a password."""
        if given is not None:
            parts = urlsplit(given.get_secret_value())
            if parts.scheme not in ("postgresql", "postgres"):
                raise ValueError("must begin with postgresql://")
            if not all(map(_HOST_AND_PORT.fullmatch, parts.netloc.rpartition("@")[2].split(","))):
                raise ValueError("has a host whose port is no number")
        return given

    @field_validator("data_key")
    @classmethod
    def _check_data_key(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None:
            _decoded_keys(given)
        return given

    def data_keys(self) -> tuple[bytes, ...]:
        """The first one seals, all of them open; none where nothing is sealed."""
        return () if self.data_key is None else _decoded_keys(self.data_key)

    @property
    def postgres_dir(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def admin_token_file(self) -> Path:
        return self.data_dir / "admin-token"

    def node_dir(self) -> Path:
        """Where the board and the progress of calls live: shared memory, if there is room."""
        if self.board_dir is not None:
            return self.board_dir
        if (
            SHARED_MEMORY.is_dir()
            and os.access(SHARED_MEMORY, os.W_OK)
            and shutil.disk_usage(SHARED_MEMORY).free >= SHARED_MEMORY_FREE_MIN_BYTES
        ):
            place = hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:16]
            return SHARED_MEMORY / f"cordboard-{os.getuid()}-{place}"
        return self.data_dir / "node"


def _decoded_keys(given: SecretStr) -> tuple[bytes, ...]:
    """Raises ValueError, which does not quote them."""
    try:
        keys = tuple(
            base64.b64decode(text.strip(), validate=True) for text in given.get_secret_value().split(",")
        )
    except (binascii.Error, ValueError):
        keys = (b"",)
    if any(len(key) != DATA_KEY_BYTES for key in keys):
        raise ValueError(
            f"each key must be base64 of {DATA_KEY_BYTES} bytes; `cordboard data-key new` makes one"
        )
    return keys


def make_private_directory(directory: Path) -> None:
    """Make a directory of ours that nobody else enters; an existing one stays as it is.

    Raises PermissionError if it belongs to somebody else.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user")


def admin_token(settings: Settings) -> tuple[str, Path | None]:
    """The admin token, and the file it was read from if it was not set."""
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value(), None
    path = settings.admin_token_file
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    return path.read_text(encoding="ascii").strip(), path
