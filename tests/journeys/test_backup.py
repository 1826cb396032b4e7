"""A backup brings everything back: on a directory of which nothing is left, calls are routed as before."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import aiohttp
import orjson
import pytest

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.receiver import EventKind, Receiver
from cordboard.storage.backup import BackupRefused, dump, without_password

from .conftest import MakeEngine
from .test_service import again, cli, moved
from .world import PIN, a_person, make_tenant


async def test_what_was_backed_up_is_restored_and_routes_calls(
    fresh_engine: MakeEngine,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    at: Callable[[EngineProcess], Client],
    tmp_path: Path,
) -> None:
    data_dir, file = tmp_path / "data", tmp_path / "backup"
    engine = fresh_engine(data_dir)
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    agent, customer, member = a_person(), a_person(), a_person()
    made = await before.allocate([agent], [customer])
    gone = await before.allocate([a_person()], [a_person()], pin="1234")
    await before.api("DELETE", f"/greenpin/{gone['greenpin_id']}")
    joined = before.call(member)
    assert await joined.enter(PIN) == "connect"
    await before.all_events()
    code, said, error = await cli(data_dir, "backup", str(file), "--json")
    assert code == 0, error
    assert orjson.loads(said) == {"file": str(file), "bytes": file.stat().st_size}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it has numbers and PINs in it"
    # What comes later is not in the backup.
    later = a_person()
    await before.allocate([later], [a_person()], pin="5678")
    code, _, error = await cli(data_dir, "restore", str(file))
    assert (code, "already running" in error) == (1, True)
    assert await engine.stop() == 0

    shutil.rmtree(data_dir)
    # The board knows more than the backup does, as after a restore on the same machine.
    code, said, error = await cli(data_dir, "restore", str(file))
    assert (code, said) == (0, f"{file}: restored\n"), error
    code, _, error = await cli(data_dir, "restore", str(file))
    assert (code, "the database is not empty" in error) == (1, True)

    await engine.start()
    after = moved(before, at(engine))
    assert (await after.api("GET", f"/greenpin/{made['greenpin_id']}")).data == made
    assert (await after.api("GET", f"/greenpin/{gone['greenpin_id']}")).data["state"] == "vault"
    assert await after.call(agent).targets() == [customer, member]
    assert await again(joined, after).targets() == [agent], "a success of the call governs its later hops"
    assert await after.call(member).enter(PIN) == "connect"
    assert await after.call(later).select() == "pin", "a stranger again"
    calls = (await after.api("GET", f"/calls?call_sid={joined.call_sid}")).data["items"]
    assert [call["decision"] for call in calls] == ["connect"]
    kinds = sorted(event["kind"] for event in (await after.api("GET", "/events")).data["items"])
    assert kinds == ["deallocated", "verified"]
    await after.allocate([a_person()], [a_person()], pin="9999")
    assert len(await after.all_events(EventKind.VERIFIED)) == 1, "what was told is not told again"
    assert await engine.stop() == 0


async def test_a_backup_that_fails_leaves_nothing_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    with pytest.raises(BackupRefused, match="pg_dump ended with code 1") as refused:
        await dump(f"postgresql://somebody:made-up-secret@/x?host={tmp_path}", file)
    assert "made-up-secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    file.write_bytes(b"yesterday's")
    with pytest.raises(BackupRefused, match="exists already"):
        await dump("postgresql:///x", file)
    assert file.read_bytes() == b"yesterday's"


@pytest.mark.parametrize(
    ("dsn", "shown", "password"),
    [
        ("postgresql://u:p%40w@/db?host=/run/x&port=5432", "postgresql://u@/db?host=/run/x&port=5432", "p@w"),
        ("postgres://u:p@a:1,b:2/db", "postgres://u@a:1,b:2/db", "p"),
        ("postgresql://h/db?user=u&password=p", "postgresql://h/db?user=u", "p"),
        ("postgresql://u@h/db", "postgresql://u@h/db", None),
    ],
)
def test_no_process_list_shows_the_password(dsn: str, shown: str, password: str | None) -> None:
    secrets = {} if password is None else {"PGPASSWORD": password}
    assert without_password(dsn) == (shown, secrets)
