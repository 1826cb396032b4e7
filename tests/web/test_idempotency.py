"""POST /greenpin under an Idempotency-Key: one allocation and one answer, however often it is sent."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from cordboard.routing.allocate import Code

from .conftest import MakeShop
from .shop import OTHER_AGENT, OTHER_CUSTOMER, Shop, assert_refused

KEY = "order-7781"


async def raw_post(shop: Shop, session: aiohttp.ClientSession, body: object) -> tuple[int, bytes, str | None]:
    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/greenpin"
    headers = {**shop.authorization, "Idempotency-Key": KEY}
    async with session.post(url, json=body, headers=headers) as response:
        return response.status, await response.read(), response.headers.get("Idempotent-Replayed")


async def test_a_repeated_request_gets_the_first_answer_byte_for_byte(
    shop: Shop, session: aiohttp.ClientSession
) -> None:
    first = await raw_post(shop, session, shop.order())
    before = await shop.rows()
    again = await raw_post(shop, session, shop.order())
    assert (first[0], first[2]) == (200, None)
    assert again == (200, first[1], "true")
    assert await shop.rows() == before


async def test_the_first_answer_stands_even_when_its_allocation_does_not(shop: Shop) -> None:
    made = (await shop.post(shop.order(), Idempotency_Key=KEY)).data
    await shop.delete(made["greenpin_id"])
    assert (await shop.post(shop.order(), Idempotency_Key=KEY)).data == made


async def test_another_body_under_the_key_is_refused(shop: Shop) -> None:
    await shop.post(shop.order(), Idempotency_Key=KEY)
    before = await shop.rows()
    other = await shop.post(shop.order("other"), Idempotency_Key=KEY)
    assert_refused(other, 409, Code.CLIENT_ID_TAKEN, "Idempotency-Key")
    assert await shop.rows() == before


async def test_a_key_is_one_tenants_own(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    mine = await shop.post(shop.order(), Idempotency_Key=KEY)
    theirs = await neighbour.post(neighbour.order(), Idempotency_Key=KEY)
    assert (mine.status, theirs.status) == (200, 200)
    assert mine.data["greenpin_id"] != theirs.data["greenpin_id"]


async def test_a_refused_request_leaves_its_key_free(shop: Shop) -> None:
    await shop.make()
    refused = await shop.post(shop.order(), Idempotency_Key=KEY)
    assert_refused(refused, 409, Code.CLIENT_ID_TAKEN, "transaction_id")
    assert_refused(await shop.post({}, Idempotency_Key=KEY), 400, Code.MISSING)
    other = shop.order("other", a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER])
    assert (await shop.post(other, Idempotency_Key=KEY)).status == 200


async def test_requests_at_once_under_one_key_make_one_allocation(
    shop: Shop, session: aiohttp.ClientSession
) -> None:
    answers = await asyncio.gather(*(raw_post(shop, session, shop.order()) for _ in range(8)))
    assert {status for status, _, _ in answers} == {200}
    assert len({body for _, body, _ in answers}) == 1
    assert [replayed for _, _, replayed in answers].count(None) == 1
    assert len((await shop.rows())["allocation"]) == 1


async def test_requests_at_once_with_other_bodies_under_one_key_make_one_allocation(shop: Shop) -> None:
    answers = await asyncio.gather(
        *(shop.post(shop.order(f"order-{n}"), Idempotency_Key=KEY) for n in range(8))
    )
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    assert len((await shop.rows())["allocation"]) == 1


async def test_an_answer_is_kept_for_a_day(shop: Shop) -> None:
    first = (await shop.post(shop.order(), Idempotency_Key=KEY)).data
    shop.clock.advance(23 * 3600)
    assert (await shop.post(shop.order(), Idempotency_Key=KEY)).data == first
    shop.clock.advance(2 * 3600)
    await shop.delete(first["greenpin_id"])
    second = (await shop.post(shop.order(), Idempotency_Key=KEY)).data
    assert second["greenpin_id"] != first["greenpin_id"]


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_has_1_to_255_characters(shop: Shop, key: str) -> None:
    before = await shop.rows()
    answer = await shop.post(shop.order(), Idempotency_Key=key)
    assert_refused(answer, 400, Code.BAD, "Idempotency-Key")
    assert await shop.rows() == before


async def test_a_key_of_255_characters_is_taken(shop: Shop) -> None:
    for _ in range(2):
        assert (await shop.post(shop.order(), Idempotency_Key="k" * 255)).status == 200
