"""Calls placed from a shell, the live view, and the doctor, against one running engine."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from cordboard.cli import main
from cordboard.cli.doctor import Finding, Level, examine
from cordboard.cli.reach import settings_of as settings_from_environment
from cordboard.cli.top import NoEngine, Sample, quantile_ms, read_metrics, summary
from cordboard.settings import Settings
from cordboard.simulator.platform import Applet, Connected, Hop, Transcript
from cordboard.simulator.transcripts import masked, transcript_json
from cordboard.storage.database import newest_migration
from cordboard.storage.embedded import DATABASE, EmbeddedPostgres

from .processes import basic, run, serving, start, until_answered

LINE, AGENT, CUSTOMER = "+918000000010", "+919800000021", "+919800000022"
PIN = "4821"


class Running(NamedTuple):
    data_dir: Path
    url: str
    applet_key: str


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """With a tenant, whose side A calls by number alone, and an allocation."""
    data_dir = tmp_path_factory.mktemp("watched") / "data"
    async with serving(data_dir) as url, aiohttp.ClientSession() as client:
        settings = '{"aparty_pin_enabled": false}'
        made = orjson.loads((await run(data_dir, "tenant", "add", "acme1m", "--settings", settings)).out)
        await run(data_dir, "vn", "add", "acme1m", LINE)
        body = {
            "transaction_id": "ORD-1",
            "a": {"vns": [LINE], "numbers": [AGENT]},
            "b": {"numbers": [CUSTOMER], "pin": PIN},
        }
        orders = f"{url}/v1/tenants/acme1m/greenpin"
        await until_answered(client, "POST", orders, 200, json=body, headers=basic(made["api_token"]))
        yield Running(data_dir, url, made["applet_key"])


async def placed(engine: Running, *arguments: str) -> tuple[int, dict[str, Any]]:
    ran = await run(engine.data_dir, "call", "acme1m", *arguments, "--json", "--url", engine.url)
    assert ran.out, ran.err
    return ran.code, orjson.loads(ran.out)


async def test_a_call_is_placed_and_every_hop_is_told(engine: Running) -> None:
    code, told = await placed(engine, LINE, AGENT)
    assert code == 0
    assert [(hop["applet"], hop["status"], hop["decision"]) for hop in told["hops"]] == [
        ("passthru", 200, "connect"),
        ("connect", 200, None),
        ("passthru", 200, "ended"),
    ]
    assert told["result"] == {
        "ended": "connected",
        "dialled": ["…22"],
        "caller_id": "…10",
        "answered_by": "…22",
    }
    assert all(hop["ms"] > 0 and len(hop["request_id"]) == 32 for hop in told["hops"])
    # What is made at random may have the digits of a number in it.
    random = [told.pop("call_sid"), *(hop.pop("request_id") for hop in told["hops"])]
    assert told["hops"][0]["parameters"].pop("CallSid") == random[0]
    assert "800000" not in orjson.dumps(told).decode()
    # The key that was made for it is gone again.
    keys = await run(engine.data_dir, "applet-key", "list", "acme1m", "--json")
    assert len(orjson.loads(keys.out)["items"]) == 1


async def test_a_caller_enters_pins_and_whoever_has_the_right_sees_all(engine: Running) -> None:
    arguments = (LINE, "+919800000055", "--pin", "1111", "--pin", PIN, "--reveal", "--flow", "branches")
    code, told = await placed(engine, *arguments, "--key", engine.applet_key, "--callee", "busy")
    assert code == 0
    assert [hop["decision"] for hop in told["hops"] if hop["applet"] == "passthru"] == [
        "pin",
        "pin",
        "connect",
        "ended",
    ]
    result = {"ended": "connected", "dialled": [AGENT], "caller_id": LINE, "answered_by": None}
    assert told["result"] == result
    assert told["hops"][2]["parameters"]["digits"] == '"1111"'


async def test_who_is_not_connected_is_told_by_the_exit_code(engine: Running) -> None:
    code, told = await placed(engine, LINE)
    assert (code, told["result"]) == (4, {"ended": "hung_up"})
    words = await run(engine.data_dir, "call", "acme1m", LINE, "--url", engine.url)
    assert (words.code, "hung up" in words.out) == (4, True)
    nobody = await run(engine.data_dir, "call", "nobody", LINE, "--url", engine.url)
    assert (nobody.code, nobody.err) == (1, "cordboard: There is no such tenant.\n")


async def test_a_database_that_is_away_has_an_exit_code_of_its_own(data_dir: Path) -> None:
    away = {"CORDBOARD_DATABASE_URL": "postgresql://somebody:made-up-secret@127.0.0.1:9/x"}
    ran = await run(data_dir, "tenant", "list", "--json", **away)
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert ran.err.startswith("cordboard: the database cannot be reached")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "must begin with postgresql://"),
        ("http://somebody:made-up-secret@h/x", "must begin with postgresql://"),
        ("postgresql://somebody:made-up-secret@h:port/x", "port is no number"),
        ("postgresql://h:1,i:port/x", "port is no number"),
        ("postgresql://somebody:made:up@h:1,[::1]:2,i/x?host=/run", None),
        ("postgresql:///x?host=/run", None),
    ],
)
def test_an_address_of_a_database_is_one_or_is_refused_by_its_name(
    url: str, said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORDBOARD_DATABASE_URL", url)
    if said is None:
        assert settings_from_environment().database_url == SecretStr(url)
        return
    with pytest.raises(SystemExit):
        settings_from_environment()
    error = capsys.readouterr().err
    assert error.startswith("cordboard: CORDBOARD_DATABASE_URL: ")
    assert said in error
    assert "made-up-secret" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command 'nonsense'."),
        (("events", "list", "acme1m", "--limit", "0"), "Invalid value for '--limit'"),
        (("call", "acme1m", LINE, "--flow", "circles"), "Invalid value for '--flow'"),
        (("vn", "list"), "Missing argument"),
        (("top", "--once", "--bogus"), "No such option"),
    ],
)
def test_a_bad_command_line_is_one_line_that_names_what_is_wrong(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cordboard", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"cordboard: {said}")
    assert error.count("\n") == 1


async def test_top_tells_once_or_again_and_again_what_the_engine_does(engine: Running) -> None:
    await placed(engine, LINE, AGENT)
    ran = await run(engine.data_dir, "top", "--once", "--json", "--url", engine.url)
    assert ran.code == 0, ran.err
    seen = orjson.loads(ran.out)
    assert (seen["ready"], seen["database_up"], seen["allocations_live"]) == (True, True, 1)
    [listed] = [row for row in seen["decisions"] if row["reason"] == "listed"]
    assert (listed["decision"], listed["total"] >= 2, listed["per_s"]) == ("connect", True, None)
    assert seen["applets"]["connect"]["p50"] > 0
    assert seen["pools"]["acme1m"]["allocations"] == 1
    shown = await run(engine.data_dir, "top", "--once", "--url", engine.url)
    assert shown.code == 0, shown.err
    assert all(word in shown.out for word in ("ready", "listed", "passthru", "acme1m"))


async def test_without_an_engine_the_reason_is_one_line_and_a_code_of_its_own(data_dir: Path) -> None:
    url = "http://127.0.0.1:9"
    for arguments in (("top", "--once"), ("throttle", "list", "acme1m")):
        ran = await run(data_dir, *arguments, "--url", url, CORDBOARD_ADMIN_TOKEN="made-up-admin-token")
        assert (ran.code, ran.out) == (3, "")
        assert ran.err.startswith(f"cordboard: no engine answers at {url}")
        assert ran.err.count("\n") == 1
    ran = await run(data_dir, "top", "--url", "127.0.0.1:9")
    assert (ran.code, ran.err) == (2, "cordboard: --url: must begin with http:// or https://\n")


def sample(at_s: float, text: str) -> Sample:
    return Sample(at_s, {"ready": True}, read_metrics(text))


def test_rates_and_latencies_are_those_of_the_interval() -> None:
    text = (
        'cordboard_decisions_total{{decision="connect",reason="listed"}} {calls}\n'
        'cordboard_request_seconds_bucket{{applet="connect",le="0.001"}} {fast}\n'
        'cordboard_request_seconds_bucket{{applet="connect",le="0.01"}} {calls}\n'
        'cordboard_request_seconds_bucket{{applet="connect",le="+Inf"}} {calls}\n'
    )
    before, now = sample(10, text.format(calls=100, fast=100)), sample(12, text.format(calls=200, fast=150))
    seen = summary(now, before)
    assert seen["decisions"] == [{"decision": "connect", "reason": "listed", "total": 200, "per_s": 50.0}]
    # Half of the hundred were faster than 1 ms, the others spread up to 10 ms.
    assert seen["applets"] == {"connect": {"requests": 100, "p50": 1.0, "p99": 9.82}}
    assert seen["events_pending"] is None, "an engine that does not say so is not taken for one without"
    restarted = summary(sample(14, text.format(calls=3, fast=3)), now)
    assert restarted["decisions"][0]["per_s"] == 0.0


@pytest.mark.parametrize(
    ("buckets", "share", "expected_ms"),
    [
        ([], 0.5, None),
        ([(0.001, 0), (inf, 0)], 0.5, None),
        ([(0.001, 10), (inf, 10)], 0.5, 0.5),
        ([(0.001, 0), (0.002, 4), (inf, 4)], 0.5, 1.5),
        ([(0.001, 5), (0.002, 5), (inf, 5)], 1.0, 1.0),
        ([(0.001, 0), (inf, 7)], 0.99, 1.0),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(
    buckets: list[tuple[float, float]], share: float, expected_ms: float | None
) -> None:
    assert quantile_ms(buckets, share) == expected_ms


def test_what_is_no_engine_is_not_read_as_one() -> None:
    with pytest.raises(NoEngine):
        read_metrics("<html>nothing = here</html>")


def test_a_masked_transcript_shows_no_number_and_nothing_that_was_keyed_in() -> None:
    parameters = {"CallSid": "12345678901234567890", "From": "09800000021", "digits": '"4821"', "Legs": "17"}
    hop = Hop(
        Applet.CONNECT, f"GET /x?From=09800000021&digits=4821 {AGENT}", parameters, 200, f"dial {AGENT}", 1
    )
    shown = masked(Transcript("sid", (hop,), Connected((AGENT,), LINE, None)))
    said = orjson.dumps(transcript_json(shown)).decode() + repr(shown)
    assert "98000000" not in said
    assert "4821" not in said
    assert dict(shown.hops[0].parameters) == {
        "CallSid": "12345678901234567890",
        "From": "…21",
        "digits": "****",
        "Legs": "17",
    }


# ── the doctor ───────────────────────────────────────────────────────────────


def settings_of(engine: Running, **more: Any) -> Settings:
    return Settings(data_dir=engine.data_dir, board_dir=engine.data_dir / "board", **more)


def levels(findings: Sequence[Finding]) -> dict[str, Level]:
    """Check → its worst level."""
    worst: dict[str, Level] = {}
    for finding in findings:
        worst[finding.check] = max(worst.get(finding.check, Level.OK), finding.level)
    return worst


async def test_the_doctor_finds_a_running_engine_well_but_for_where_its_board_is(engine: Running) -> None:
    ran = await run(engine.data_dir, "doctor", "--json", "--url", engine.url)
    told = orjson.loads(ran.out)
    assert (ran.code, told["level"]) == (1, "warn")
    found = levels([Finding(**{**check, "level": Level[check["level"].upper()]}) for check in told["checks"]])
    # The tests keep the board beside the data, and this machine may be short of room.
    for check in ("board directory", "space for the board", "space for data"):
        found.pop(check)
    assert found == dict.fromkeys(
        (
            "settings",
            "data directory",
            "admin token",
            "database directory",
            "spool directory",
            "file descriptors",
            "database",
            "clock",
            "migrations",
            "data keys",
            "engine",
        ),
        Level.OK,
    )


async def test_the_doctor_knocks_at_callback_endpoints_and_sends_nothing(engine: Running) -> None:
    heard: list[bytes] = []

    async def refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1_000))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse_tls, "127.0.0.1", 0) as subscriber:
        port = subscriber.sockets[0].getsockname()[1]
        endpoints = {
            "deallocation_callback_event_endpoint": f"http://user:secret@127.0.0.1:{port}/events",
            "verified_caller_event_endpoint": f"https://127.0.0.1:{port}/events",
            "failed_verification_event_endpoint": "http://127.0.0.1:9/",
        }
        added = ("tenant", "add", "told", "--settings", orjson.dumps(endpoints).decode())
        allowed = await run(engine.data_dir, *added, CORDBOARD_CALLBACK_ALLOW="127.0.0.1")
        assert allowed.code == 0, allowed.err
        findings = await examine(settings_of(engine, callback_allow=("127.0.0.1",)), engine.url)
        closed = await examine(settings_of(engine), engine.url)
    assert (await run(engine.data_dir, "tenant", "delete", "told")).code == 0
    callbacks = {finding.found: finding.level for finding in findings if finding.check == "callbacks"}
    assert callbacks.pop(f"127.0.0.1:{port} (told) takes connections") is Level.OK
    assert callbacks.pop("127.0.0.1:9 (told) cannot be reached: Connection refused") is Level.WARN
    assert list(callbacks.values()) == [Level.FAIL], "nobody who is asked for TLS answers with HTTP"
    assert sorted(said[:1] for said in heard) == [b"", b"\x16"], "nothing but a client's hello in TLS"
    assert levels(closed)["callbacks"] is Level.FAIL, "nobody opened this machine to events"
    assert "secret" not in repr([findings, closed])


async def test_the_doctor_says_what_is_open_to_others(engine: Running) -> None:
    token = engine.data_dir / "admin-token"
    mode = stat.S_IMODE(token.stat().st_mode)
    token.chmod(0o644)
    try:
        findings = await examine(settings_of(engine), engine.url)
    finally:
        token.chmod(mode)
    [finding] = [finding for finding in findings if finding.check == "admin token"]
    assert (finding.level, finding.advice) == (Level.FAIL, f"chmod 600 {token}")


async def test_the_doctor_says_what_is_missing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    found = levels(await examine(Settings(data_dir=data_dir, host="0.0.0.0"), "http://127.0.0.1:9"))  # noqa: S104
    assert {found[check] for check in ("database", "engine", "CORDBOARD_HOST")} == {Level.WARN}
    assert not data_dir.exists(), "it makes nothing"
    away = SecretStr("postgresql://somebody:made-up-secret@127.0.0.1:9/x")
    findings = await examine(Settings(data_dir=data_dir, database_url=away), "http://127.0.0.1:9")
    assert levels(findings)["database"] is Level.FAIL
    assert "made-up-secret" not in repr(findings)
    bad = await run(data_dir, "doctor", CORDBOARD_PORT="0.5")
    assert (bad.code, bad.err.count("\n")) == (1, 1)
    assert bad.err.startswith("cordboard: CORDBOARD_PORT: ")


async def test_the_doctor_tells_old_and_new_schemas_and_empty_databases(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute("CREATE DATABASE examined")
    await connection.close()
    url = postgres.dsn.replace(f"/{DATABASE}?", "/examined?")
    settings = Settings(database_url=SecretStr(url))

    async def migrations() -> Finding:
        findings = await examine(settings, "http://127.0.0.1:9")
        return next(finding for finding in findings if finding.check == "migrations")

    assert "empty" in (await migrations()).found
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE schema_migration (version integer)")
    await connection.execute("INSERT INTO schema_migration VALUES (1)")
    assert (await migrations()).level is Level.WARN
    await connection.execute("INSERT INTO schema_migration VALUES (9999)")
    assert (await migrations()).advice == "upgrade: a newer engine was here"
    # A schema that says to be ours, and lacks what we ask for.
    await connection.execute("UPDATE schema_migration SET version = $1", newest_migration())
    findings = await examine(settings, "http://127.0.0.1:9")
    [refused] = [finding for finding in findings if finding.level is Level.FAIL]
    assert refused.found == "refuses what is asked: UndefinedTableError"
    await connection.close()


# ── completion ───────────────────────────────────────────────────────────────


async def test_long_work_has_a_bar_where_somebody_looks_on(engine: Running, tmp_path: Path) -> None:
    terminal, its_end = os.openpty()
    process = await start(engine.data_dir, "backup", str(tmp_path / "seen"), stderr=its_end, TERM="xterm")
    out, _ = await process.communicate()
    os.close(its_end)
    seen = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert (process.returncode, out.decode().startswith(f"{tmp_path / 'seen'}: ")) == (0, True)
    assert "writing the backup" in seen
    unseen = await run(engine.data_dir, "backup", str(tmp_path / "unseen"))
    assert (unseen.code, unseen.err) == (0, "")


async def in_bash(script: str) -> str:
    """What bash says, with the console script beside this Python on its path."""
    beside = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec("bash", "-c", script, stdout=PIPE, env=environment)
    return (await process.communicate())[0].decode()


async def test_bash_completes_commands_and_options() -> None:
    completed = await in_bash(
        """
        export _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1
        eval "$(cordboard --show-completion bash)"
        for words in "cordboard ev" "cordboard call --flow b"; do
            COMP_WORDS=($words) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _cordboard_completion cordboard
            echo "${COMPREPLY[@]}"
        done
        """
    )
    assert completed.splitlines() == ["events", "branches"]


async def test_zsh_is_told_what_it_completes_by() -> None:
    completed = await in_bash(
        "_CORDBOARD_COMPLETE=complete_zsh _TYPER_COMPLETE_ARGS='cordboard thr' cordboard"
    )
    assert completed.strip() == '_arguments \'*: :(("throttle":"Windows of wrong PINs that may be full."))\''
