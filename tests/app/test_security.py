"""Who is let in, from where, with what; what every answer carries."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fovea.app.security import CSRF_HEADER, Limits, Sessions, Shield
from fovea.app.server import Place, allowed_hosts, build, serve
from fovea.app.start import serve_run
from fovea.errors import ConfigError, RunError
from tests.app.conftest import BASE, TOKEN, sign_in
from tests.conftest import run_async

READS = (
    "/api/run",
    "/api/latents",
    "/api/position?at_job=g&at_latent=1",
    "/api/latents/g/1",
    "/api/compare?a=g&b=g",
    "/api/latents.csv",
)
WRITES = ("/api/marks", "/api/export", "/api/prompt")
MARK = {"job": "g", "latent": 1, "action": "unflag"}


@pytest.mark.parametrize("path", READS)
def test_nothing_is_read_without_the_cookie(anonymous: TestClient, path: str) -> None:
    assert anonymous.get(path).status_code == 401
    sign_in(anonymous)
    assert anonymous.get(path).status_code == 200


@pytest.mark.parametrize("path", WRITES)
def test_nothing_is_written_without_the_cookie(anonymous: TestClient, path: str) -> None:
    assert anonymous.post(path, json=MARK).status_code == 401


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", "\u00e9", None, 3, [TOKEN], {}])
def test_another_token_gives_no_cookie(anonymous: TestClient, token: Any) -> None:
    answer = anonymous.post("/api/session", json={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(anonymous: TestClient) -> None:
    cookie = anonymous.post("/api/session", json={"token": TOKEN}).headers["set-cookie"]
    assert cookie.startswith("fovea-owner-8642=owner.")
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert TOKEN not in cookie


def test_a_cookie_is_only_good_as_it_was_given(anonymous: TestClient) -> None:
    sign_in(anonymous)
    name, value = next(iter(anonymous.cookies.items()))
    subject, nonce, signature = value.split(".")
    forged = (
        "owner",
        f"owner.{nonce}",
        f"admin.{nonce}.{signature}",
        f"{subject}.x.{signature}",
        f"{value}0",
        "..",
        "",
    )
    for cookie in forged:
        anonymous.cookies.clear()
        assert anonymous.get("/api/run", headers={"cookie": f"{name}={cookie}"}).status_code == 401, cookie


def test_a_cookie_does_not_outlive_the_server(run: Path) -> None:
    with TestClient(build(run, Place(), TOKEN), base_url=BASE, headers={"origin": BASE}) as first:
        cookies = dict(sign_in(first).cookies)
    with TestClient(build(run, Place(), TOKEN), base_url=BASE, cookies=cookies) as second:
        assert second.get("/api/run").status_code == 401


def test_a_cookie_of_one_capability_is_none_of_another() -> None:
    owner, rater = Sessions("fovea-owner-1", b"a" * 32), Sessions("fovea-rater-1", b"b" * 32)
    assert owner._sign("cookie", "owner.x") != rater._sign("cookie", "owner.x")
    assert owner._sign("cookie", "owner.x") != owner._sign("csrf", "owner.x")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8642", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8642", "", "\xe9"],
)
@pytest.mark.parametrize("path", ["/", "/assets/main.js", "/api/run", "/api/session"])
def test_a_name_that_was_rebound_to_us_is_refused(owner: TestClient, host: str, path: str) -> None:
    answer = owner.get(path, headers={"host": host.encode("latin-1")})
    assert answer.status_code == 421
    assert "fovea-owner" not in str(answer.headers)


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:8642", "[::1]:8642", "LOCALHOST:8642"])
def test_the_names_of_this_machine_are_ours(owner: TestClient, host: str) -> None:
    assert owner.get("/", headers={"host": host}).status_code == 200


def test_a_proxy_in_front_has_its_own_name() -> None:
    hosts = allowed_hosts(Place("127.0.0.1", 1, names=("Study.example.org",)))
    assert {"study.example.org", "study.example.org:1", "127.0.0.1:1"} <= hosts
    assert "127.0.0.1:2" not in hosts


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:80", f"{BASE}.evil.example"])
def test_only_our_own_pages_write(owner: TestClient, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    if origin is None:
        del owner.headers["origin"]
    for path, body in (("/api/marks", MARK), ("/api/session", {"token": TOKEN})):
        assert owner.post(path, json=body, headers=headers).status_code == 403


@pytest.mark.parametrize("value", [None, "", "x", TOKEN])
def test_a_write_needs_the_csrf_value_of_its_cookie(owner: TestClient, value: str | None) -> None:
    assert owner.post("/api/marks", json=MARK).status_code == 200
    del owner.headers[CSRF_HEADER]
    answer = owner.post("/api/marks", json=MARK, headers={} if value is None else {CSRF_HEADER: value})
    assert answer.status_code == 403


def test_two_cookies_have_two_csrf_values(run: Path) -> None:
    values = set()
    app = build(run, Place(), TOKEN)
    for _ in range(2):
        with TestClient(app, base_url=BASE, headers={"origin": BASE}) as client:
            values.add(sign_in(client).headers[CSRF_HEADER])
    assert len(values) == 2


def test_reads_from_other_sites_are_refused_even_with_the_cookie(owner: TestClient) -> None:
    for site in ("cross-site", "same-site"):
        assert owner.get("/api/run", headers={"sec-fetch-site": site}).status_code == 403
    assert owner.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200, "a link may open the page"


@pytest.mark.parametrize(
    "path", ["/", "/compare", "/latents/g/1", "/assets/main.js", "/api/run", "/nothing", "/api/no"]
)
def test_every_answer_carries_the_headers(anonymous: TestClient, path: str) -> None:
    headers = anonymous.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    for rule in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for"):
        assert rule in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "etag" not in headers


def test_refusals_carry_the_headers_too(anonymous: TestClient) -> None:
    answer = anonymous.get("/api/run", headers={"host": "evil.example"})
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_pages_hold_no_inline_script_no_style_and_no_data(anonymous: TestClient) -> None:
    page = anonymous.get("/latents/g/1").text
    assert '<script type="module" src="/assets/main.js"></script>' in page
    assert page.count("<script") == 1
    assert "<style" not in page
    assert " style=" not in page
    assert " on" not in page.replace(" only", "").replace(" once", "")


def test_nothing_is_asked_of_another_machine() -> None:
    static = Path(__file__).parents[2] / "src" / "fovea" / "app" / "static"
    for path in static.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8642/", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert sink not in text, path


def test_a_large_request_is_refused_before_it_is_read(owner: TestClient) -> None:
    assert owner.post("/api/marks", json={"text": "x" * 70_000}).status_code == 413
    assert (
        owner.post(
            "/api/marks", content=iter([b"x" * 40_000] * 2), headers={"content-type": "application/json"}
        ).status_code
        == 413
    )
    assert owner.get("/api/run", headers={"content-length": "9" * 30}).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 40_000, b'{"job": NaN}', b"[[[[[[[[[1]]]]]]]]]"])
def test_what_is_not_plain_json_is_refused(owner: TestClient, body: bytes) -> None:
    assert owner.post("/api/marks", content=body, headers={"content-type": "application/json"}).status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_site_cannot_be_taken_for_json(owner: TestClient, kind: str) -> None:
    assert owner.post("/api/marks", content=b"{}", headers={"content-type": kind}).status_code == 415


def test_other_methods_are_refused(owner: TestClient) -> None:
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        assert owner.request(method, "/api/run").status_code == 405


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e",
        "../notes.sqlite",
        "%2e%2e%2fexperiment.toml",
        "..%5c..%5cx",
        "/etc/passwd",
        "CON",
        "a" * 4000,
        "%00",
        "main.js/",
        ".",
    ],
)
def test_no_name_from_a_browser_reaches_the_disk(owner: TestClient, name: str) -> None:
    for path in (f"/assets/{name}", f"/api/latents/{name}/1", f"/api/compare?a={name}&b=g", f"/api/latents?job={name}"):
        answer = owner.get(path)
        assert answer.status_code == 404, path
        assert "root:" not in answer.text


@pytest.mark.parametrize("latent", ["-1", "64", "1e3", "99999999999999999999", "\u0661", "0x1", "1 or 1=1"])
def test_no_such_latent_is_said_and_no_more(owner: TestClient, latent: str) -> None:
    assert owner.get(f"/api/latents/g/{latent}").status_code == 404
    assert owner.post("/api/marks", json=MARK | {"latent": latent}).status_code == 404


def test_a_slow_request_and_a_slow_answer_end() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive, send
        await asyncio.sleep(60)

    async def silence() -> Any:
        await asyncio.sleep(60)

    async def status(receive: Any, limits: Limits) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"h")]}
        await Shield(slow, frozenset({"h"}), limits)(scope, receive, send)
        return sent[0]["status"]

    async def all_at_once() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert run_async(status(silence, Limits(body_seconds=0.05))) == 408
    assert run_async(status(all_at_once, Limits(seconds=0.05))) == 504


def test_a_host_that_others_reach_needs_a_word(run: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
        with pytest.raises(ConfigError, match="--allow-remote"):
            serve(run, Place(host, 0), is_remote_allowed=False, say=print)


def test_without_evidence_serving_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="fovea features"):
        serve(tmp_path, Place(port=0), is_remote_allowed=False, say=print)


def test_without_the_extra_serving_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fovea.app.start.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"fovea-sae\[app\]"):
        serve_run(tmp_path, address=("127.0.0.1", 0), say=print)
