"""Provisioning, erasure, events and throttles from a shell, with an engine running or not."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import aiohttp
import orjson
import pytest

from .processes import basic, run, serving, until_answered


async def test_a_tenant_is_provisioned_without_a_running_engine_and_served_by_the_next(
    data_dir: Path,
) -> None:
    made = await run(data_dir, "tenant", "add", "acme1m", "--settings", '{"aparty_pin_enabled": false}')
    assert made.code == 0, made.err
    secrets = orjson.loads(made.out)
    assert set(secrets) == {"id", "api_token", "applet_key", "webhook_secret"}
    added = await run(data_dir, "vn", "add", "acme1m", "+918000000010", "--region", "KA", "--type", "mobile")
    assert (added.code, added.out) == (0, "1 added to acme1m\n")
    async with serving(data_dir) as url, aiohttp.ClientSession() as client:
        auth = basic(secrets["api_token"])
        async with client.get(f"{url}/v1/tenants/acme1m/settings", headers=auth) as answer:
            assert (await answer.json())["data"]["aparty_pin_enabled"] is False


async def test_a_running_engine_routes_by_what_the_command_line_adds(data_dir: Path) -> None:
    async with serving(data_dir) as url, aiohttp.ClientSession() as client:
        secrets = orjson.loads((await run(data_dir, "tenant", "add", "acme1m")).out)
        token = orjson.loads((await run(data_dir, "token", "add", "acme1m")).out)
        await run(data_dir, "vn", "add", "acme1m", "+918000000010")
        body = {
            "transaction_id": "ORD-1",
            "a": {"vns": ["8000000010"], "numbers": ["9800000021"]},
            "b": {"numbers": ["9800000022"]},
        }
        for secret in (secrets["api_token"], token["api_token"]):
            # The first one gets it, the second one is told that it is taken: both are let in.
            orders = f"{url}/v1/tenants/acme1m/greenpin"
            await until_answered(client, "POST", orders, 200, 409, json=body, headers=basic(secret))
        ended = await run(data_dir, "token", "delete", "acme1m", token["token_id"])
        assert ended.code == 0, ended.err
        settings = f"{url}/v1/tenants/acme1m/settings"
        await until_answered(client, "GET", settings, 401, headers=basic(token["api_token"]))
        refused = await run(data_dir, "vn", "delete", "acme1m", "+918000000010")
        assert (refused.code, refused.err) == (1, "cordboard: refused: 1 live allocations\n")


async def test_lines_are_drained_and_reserved_and_given_back(data_dir: Path) -> None:
    async with serving(data_dir):
        await run(data_dir, "tenant", "add", "acme1m")
        await run(data_dir, "vn", "add", "acme1m", "+918000000010", "--reserved")
        await run(data_dir, "vn", "add", "acme1m", "+918000000011")

        async def listed() -> list[str]:
            """Each number with what is said of it."""
            rows = (await run(data_dir, "vn", "list", "acme1m")).out.splitlines()
            return [" ".join(row.replace("│", " ").split()) for row in rows if "+91" in row]

        assert await listed() == ["+918000000010 yes", "+918000000011"]
        drained = await run(data_dir, "vn", "drain", "acme1m", "8000000010")
        assert (drained.code, drained.out) == (0, "8000000010 of acme1m is drained\n")
        assert await listed() == ["+918000000010 yes yes", "+918000000011"]
        for command in ("undrain", "unreserve"):
            assert (await run(data_dir, "vn", command, "acme1m", "+918000000010")).code == 0
        assert (await run(data_dir, "vn", "reserve", "acme1m", "+918000000011")).code == 0
        assert await listed() == ["+918000000010", "+918000000011 yes"]
        unknown = await run(data_dir, "vn", "drain", "acme1m", "+918000000012")
        assert (unknown.code, unknown.err) == (1, "cordboard: the tenant has no such virtual number\n")


async def test_windows_of_wrong_pins_are_listed_and_lifted(data_dir: Path) -> None:
    async with serving(data_dir) as url, aiohttp.ClientSession() as client:
        settings = '{"pin_failures_per_caller": "1/1h"}'
        secrets = orjson.loads((await run(data_dir, "tenant", "add", "acme1m", "--settings", settings)).out)
        await run(data_dir, "vn", "add", "acme1m", "+918000000010")
        body = {
            "transaction_id": "ORD-1",
            "a": {"vns": ["8000000010"], "numbers": ["9800000021"]},
            "b": {"numbers": ["9800000022"], "pin": "4821"},
        }
        orders = f"{url}/v1/tenants/acme1m/greenpin"
        await until_answered(client, "POST", orders, 200, json=body, headers=basic(secrets["api_token"]))
        query = {
            "key": secrets["applet_key"],
            "CallSid": "sid",
            "CallFrom": "09800000091",
            "CallTo": "08000000010",
            "digits": "1",
        }
        async with client.get(f"{url}/v1/tenants/acme1m/exotel/passthru", params=query) as answer:
            assert await answer.json(content_type=None) == {"select": "pin"}

        async def listed(*options: str) -> list[str]:
            """The rows of the table, without its lines."""
            ran = await run(data_dir, "throttle", "list", "acme1m", "--url", url, *options)
            assert ran.code == 0, ran.err
            rows = [" ".join(row.replace("│", " ").split()) for row in ran.out.splitlines()[3:-1]]
            return [row.rpartition("/1h")[0] + "/1h" for row in rows]

        vn, tenant = "vn +918000000010 1 60/1h", "tenant 1 1000/1h"
        assert await listed() == ["caller …91 1 1/1h", vn, tenant]
        assert (await listed("--reveal"))[0] == "caller +919800000091 1 1/1h"
        cleared = await run(data_dir, "throttle", "clear", "acme1m", "--caller", "9800000091")
        assert (cleared.code, cleared.out) == (0, "lifted for acme1m: caller\n")
        async with asyncio.timeout(10):
            while await listed() != [vn, tenant]:
                pass
        assert (await run(data_dir, "throttle", "clear", "acme1m", "--all")).code == 0
        async with asyncio.timeout(10):
            while await listed():
                pass
        both = await run(data_dir, "throttle", "clear", "acme1m", "--all", "--vn", "8000000010")
        assert (both.code, both.err) == (
            1,
            "cordboard: --caller, --vn and --all: at most one of them may be given\n",
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("throttle", "clear", "nobody"), "there is no such tenant"),
        (("tenant", "add", "Bad Name"), "id must be 1 to 63 characters"),
        (("tenant", "add", "acme1m", "--settings", "{"), "--settings: not JSON"),
        (("tenant", "add", "acme1m", "--settings", '{"timezone": "CET"}'), "timezone must be"),
        (("tenant", "delete", "nobody"), "there is no such tenant"),
        (("vn", "add", "nobody", "+918000000010"), "there is no such tenant"),
        (("token", "delete", "nobody", "5f0c0f7e-8d2c-4b64-9f0d-1d2a1f0f6f5e"), "there is no such tenant"),
        (("vn", "delete", "nobody", "12"), "not a telephone number"),
        (("erase", "--number", "12"), "not a telephone number"),
        (("erase", "--number", "+919800000021", "--tenant", "nobody"), "there is no such tenant"),
    ],
)
async def test_a_bad_command_says_why_and_ends_with_1(
    data_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = await run(data_dir, *arguments)
    assert ran.code == 1
    assert message in ran.err
    assert ran.err.count("\n") == 1, "one sentence and no traceback"


@pytest.mark.parametrize(
    ("text", "message"),
    [("prefix,area,region\n40,Pune,PN\n", "own.csv, line 2: a region must be"), (None, "own.csv")],
)
async def test_an_engine_does_not_start_with_a_bad_postal_table(
    data_dir: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "own.csv"
    if text is not None:
        path.write_text(text)
    ran = await run(data_dir, "serve", "--port", "0", CORDBOARD_POSTAL_REGIONS=str(path))
    assert (ran.code, ran.out) == (1, "")
    assert message in next(line for line in ran.err.splitlines() if line.startswith("cordboard: "))
    assert "Traceback" not in ran.err


async def test_a_person_is_erased_from_a_shell_and_the_running_engine_knows(data_dir: Path) -> None:
    async with serving(data_dir) as url, aiohttp.ClientSession() as client:
        secrets = orjson.loads((await run(data_dir, "tenant", "add", "acme1m")).out)
        await run(data_dir, "vn", "add", "acme1m", "+918000000010")
        auth, orders = basic(secrets["api_token"]), f"{url}/v1/tenants/acme1m/greenpin"
        body = {
            "transaction_id": "ORD-1",
            "a": {"vns": ["8000000010"], "numbers": ["9800000021", "9800000023"]},
            "b": {"numbers": ["9800000022"]},
        }
        await until_answered(client, "POST", orders, 200, 409, json=body, headers=auth)
        erase = ("erase", "--number", "+919800000021", "--tenant", "acme1m", "--json")
        counted = await run(data_dir, *erase, "--dry-run")
        erased = await run(data_dir, *erase)
        assert counted.code == erased.code == 0, erased.err
        counts = orjson.loads(erased.out)
        assert orjson.loads(counted.out) == counts
        assert {what for what, count in counts.items() if count} == {"allocations_updated"}
        [logged] = [orjson.loads(line) for line in erased.err.splitlines() if "erasure.done" in line]
        assert (logged["number"], logged["allocations_updated"]) == ("…21", 1)
        assert "9800000021" not in erased.err
        assert set(orjson.loads((await run(data_dir, *erase)).out).values()) == {0}
        async with client.get(orders, headers=auth) as answer:
            [item] = (await answer.json())["data"]["items"]
        assert item["a"]["numbers"] == ["+919800000023"]
        table = await run(data_dir, "erase", "--number", "9800000023")
        assert (table.code, "allocations updated" in table.out) == (0, True)


async def test_keys_are_made_and_rotated(data_dir: Path) -> None:
    first, second = [(await run(data_dir, "data-key", "new")).out.strip() for _ in range(2)]
    assert first != second
    assert not data_dir.exists(), "nothing is kept"
    without = await run(data_dir, "data-key", "rotate")
    assert (without.code, without.err) == (1, "cordboard: CORDBOARD_DATA_KEY is not set\n")
    bad = await run(data_dir, "data-key", "rotate", CORDBOARD_DATA_KEY=first[:-4])
    assert (bad.code, "base64 of 32 bytes" in bad.err) == (1, True)
    assert first[:-4] not in bad.err
    rotated = await run(data_dir, "data-key", "rotate", CORDBOARD_DATA_KEY=f"{second},{first}")
    assert (rotated.code, rotated.out) == (0, "sealed anew: 0 events, 0 answers\n")


async def test_every_setting_is_listed_and_no_secret_is_shown() -> None:
    environment = {**os.environ, "CORDBOARD_ADMIN_TOKEN": "not-to-be-shown", "COLUMNS": "250"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cordboard", "settings", stdout=PIPE, env=environment
    )
    out = (await process.communicate())[0].decode()
    assert process.returncode == 0
    assert "CORDBOARD_DATABASE_URL" in out
    assert "CORDBOARD_ADMIN_TOKEN" in out
    assert "not-to-be-shown" not in out


async def test_python_without_its_checks_is_refused() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-O", "-m", "cordboard", "settings", stderr=PIPE
    )
    err = (await process.communicate())[1].decode()
    assert process.returncode == 1
    assert "python -O" in err


async def test_events_are_listed_shown_and_replayed_and_secrets_rotated(data_dir: Path) -> None:
    settings = {"deallocation_callback_event_endpoint": "http://127.0.0.1:9/"}
    forbidden = await run(data_dir, "tenant", "add", "acme1m", "--settings", orjson.dumps(settings).decode())
    assert (forbidden.code, "not public" in forbidden.err) == (1, True)
    allow = {"CORDBOARD_CALLBACK_ALLOW": "127.0.0.1"}
    added = await run(
        data_dir, "tenant", "add", "acme1m", "--settings", orjson.dumps(settings).decode(), **allow
    )
    secrets = orjson.loads(added.out)
    await run(data_dir, "vn", "add", "acme1m", "+918000000010")
    async with serving(data_dir) as url, aiohttp.ClientSession() as client:
        body = {
            "transaction_id": "ORD-1",
            "a": {"vns": ["8000000010"], "numbers": ["9800000021"]},
            "b": {"numbers": ["9800000022"]},
        }
        orders, auth = f"{url}/v1/tenants/acme1m/greenpin", basic(secrets["api_token"])
        async with client.post(orders, json=body, headers=auth) as answer:
            made = (await answer.json())["data"]
        await until_answered(client, "DELETE", f"{orders}/{made['greenpin_id']}", 200, headers=auth)
        async with client.get(f"{url}/v1/tenants/acme1m/events", headers=auth) as answer:
            (event,) = (await answer.json())["data"]["items"]

        listed = await run(data_dir, "events", "list", "acme1m", "--state", "pending")
        assert event["id"] in listed.out, listed.err
        shown = await run(data_dir, "events", "show", "acme1m", event["id"])
        assert orjson.loads(shown.out)["body"]["aparty_numbers"] == ["…21"]
        revealed = await run(data_dir, "events", "show", "acme1m", event["id"], "--reveal")
        assert orjson.loads(revealed.out)["body"]["aparty_numbers"] == ["+919800000021"]
        pending = await run(data_dir, "events", "replay", "acme1m", event["id"])
        assert (pending.code, "is pending" in pending.err) == (1, True)
        none = await run(data_dir, "events", "replay", "acme1m", "--from", "2026-01-01")
        assert (none.code, none.out) == (0, "0 events to be told again\n")

        second = orjson.loads((await run(data_dir, "webhook-secret", "add", "acme1m")).out)
        assert second["webhook_secret"].startswith("whsec_")
        deleted = await run(data_dir, "webhook-secret", "delete", "acme1m", second["secret_id"])
        assert deleted.code == 0
        told = await run(data_dir, "webhook-secret", "list", "acme1m")
        assert second["secret_id"] in told.out
        assert "whsec_" not in told.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("events", "replay", "acme1m"), "name either one event or a time range"),
        (("events", "replay", "acme1m", "--from", "x", "--state", "pending"), "cannot be replayed"),
        (("events", "list", "nobody"), "there is no such tenant"),
        (("webhook-secret", "add", "nobody"), "there is no such tenant"),
    ],
)
async def test_commands_about_events_say_what_is_wrong(
    data_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = await run(data_dir, *arguments)
    assert refused.code == 1
    assert message in refused.err
