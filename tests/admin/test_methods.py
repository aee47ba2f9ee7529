"""Methods and paths that are none: each is told in the same form, with what would have been taken instead."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.admin_service import Site

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
NOWHERE = (
    "/", "/consent", "/consents/", "/consents//x", "/x//elsewhere.example", "/participants/a/b/c", "/%2e%2e/x", "/*",
)  # fmt: skip


def routes(document: dict[str, Any], consent_id: str) -> Iterator[tuple[str, set[str]]]:
    """A path and its methods, of every path that the service describes."""
    named = {"{consent_id}": consent_id, "{client_id}": "atp-1"}
    for path, operations in document["paths"].items():
        real = path
        for name, value in named.items():
            real = real.replace(name, value)
        methods = {method.upper() for method in operations}
        yield real, methods | ({"HEAD"} if "GET" in methods else set())


def is_problem(response: httpx2.Response, status: int, code: str) -> bool:
    if (response.status_code, response.headers["Content-Type"]) != (status, "application/problem+json"):
        return False
    if response.request.method == "HEAD":
        return response.content == b""
    problem = response.json()
    return (problem["status"], problem["code"]) == (status, code)


async def test_a_method_that_a_path_does_not_take_is_405_and_names_those_it_does(site: Site) -> None:
    consent_id = await site.granted()
    tried = 0
    async with site.client("operator-1") as http:
        document = (await http.get("/openapi.json")).json()
        for path, taken in routes(document, consent_id):
            for method in set(METHODS) - taken:
                response = await http.request(method, path)
                assert is_problem(response, 405, "method_not_allowed"), (method, path, response.text)
                assert {name.strip() for name in response.headers["Allow"].split(",")} == taken, (method, path)
                tried += 1
    assert tried > 80


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", NOWHERE)
async def test_a_path_that_is_none_is_404_whatever_the_method(site: Site, method: str, path: str) -> None:
    async with site.client("atp-1") as http:
        response = await http.request(method, path)
    assert is_problem(response, 404, "not_found"), (response.status_code, response.text)


async def test_head_says_what_get_would_without_the_body(site: Site) -> None:
    consent_id = await site.granted()
    async with site.client("atp-1") as http:
        for path, status in ((f"/consents/{consent_id}", 200), ("/participants", 200), ("/participants/edp-1", 404)):
            asked, told = await http.get(path), await http.head(path)
            assert (asked.status_code, told.status_code) == (status, status)
            assert told.content == b""
            assert told.headers["Content-Type"] == asked.headers["Content-Type"]
            assert int(told.headers["Content-Length"]) == len(asked.content)


async def test_methods_that_write_are_refused_before_their_body_is_looked_at(site: Site) -> None:
    async with site.client("atp-1") as http:
        response = await http.request("PATCH", "/consents", content=b"{", headers={"Content-Type": "text/plain"})
    assert is_problem(response, 405, "method_not_allowed")
