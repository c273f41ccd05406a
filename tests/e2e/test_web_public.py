"""What visitors without a login see of a real MailWatch: states and outages, and nothing private."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from mailwatch.web.templating import texts
from tests.helpers.leak_check import CANARIES, PASSWORD, running_with_canaries
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import HTML, ask, basic
from tests.helpers.web_routes import ROUTES

PUBLIC = {
    "/", "/outages", "/outages/{outage_id}", "/outages.atom", "/incidents",
    "/incidents/{incident_id}", "/about", "/static/{name}", "/live",
    "/targets/{name:path}", "/api/v1/targets/{name:path}",
    "/favicon.ico", "/manifest.webmanifest", "/licence", "/robots.txt",
    "/login", "/healthz", "/readyz", "/api/v1/targets", "/api/v1/outages", "/api/v1/outages.csv",
    "/api/v1/outages/{outage_id}", "/api/v1/incidents", "/api/v1/incidents/{incident_id}",
}  # fmt: skip
WHEN = "from=2020-01-01T00:00:00Z&to=2040-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    """It has an outage behind it, and visitors without a login ask it."""
    with running_with_canaries(tmp_path_factory.mktemp("public"), public=True) as (process, _):
        process.start()
        process.wait_until(lambda: all(t["state"] == "up" for t in process.api("targets")), "up again")
        yield process


def api_answer(process: MailWatchProcess, what: str, headers: dict[str, str] | None = None) -> Any:
    return json.loads(ask(process, f"/api/v1/{what}", headers)[2])


def everything(process: MailWatchProcess, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """The status, and all of the answer; of a stream its beginning."""
    if path.startswith("/live"):
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = "".join(answer.readline().decode() for _ in range(4))
        connection.close()
        return answer.status, text
    status, answered, text = ask(process, path, headers)
    return status, f"{answered}\n{text}"


def addresses(process: MailWatchProcess, route: str) -> Iterator[str]:
    """A route with everything that can stand in its gaps."""
    if "{" not in route:
        # The API refuses what a route has no parameter for.
        further = "&limit=1000" if "observations" in route or "/api/" not in route else ""
        yield route if route in ("/api/v1/targets",) else f"{route}?{WHEN}{further}"
        return
    if "/targets/{name:path}" in route:
        for headers in (None, basic(PASSWORD)):
            for item in api_answer(process, "targets", headers):
                yield route.replace("{name:path}", quote(item["target"], safe="/@"))
        return
    if "{target:path}" in route:
        for headers in (None, basic(PASSWORD)):
            for item in api_answer(process, "targets", headers):
                yield route.replace("{target:path}", quote(item["target"], safe="/@")).replace("{kind}", "state")
        return
    if "{name}" in route:
        yield from (route.format(name=name) for name in ("style.css", "live.js", "icon.svg", "app.py"))
        return
    if "{token}" in route:
        yield from (route.format(token=token) for token in ("x", "000000000000-20990101-" + 27 * "A"))
        return
    kind = "incidents" if "incident_id" in route else "outages"
    for headers in (None, basic(PASSWORD)):
        for item in api_answer(process, kind, headers):
            yield route.format(incident_id=item["id"], outage_id=item["id"], suffix="pdf")


def test_the_walk_covers_every_route() -> None:
    assert len(ROUTES) > 20
    assert {"/metrics", "/ledger", "/observations", "/live", "/api/openapi.json", "/api/v1/availability",
            "/api/v1/outages/{outage_id}/evidence.zip"} <= set(ROUTES)  # fmt: skip
    assert set(ROUTES) >= PUBLIC


@pytest.mark.parametrize("language", ["en", "it"])
@pytest.mark.parametrize("accept", [{}, HTML], ids=["program", "browser"])
def test_no_route_discloses_anything_private_to_an_anonymous_client(
    public: MailWatchProcess, accept: dict[str, str], language: str
) -> None:
    hidden = [*CANARIES, *(o["id"] for o in api_answer(public, "outages", basic(PASSWORD)))]
    for route in ROUTES:
        for path in addresses(public, route):
            status, text = everything(public, path, accept | {"Accept-Language": language})
            # A link that is not valid shows nothing, as a page that does not exist.
            refused = (404,) if route.startswith("/share/") else (401, 403)
            # A name with a slash is none of a public target.
            known = route in PUBLIC and "example.org/" not in path
            assert status in ((200, 404) if known else refused), path
            # What one asks for may come back; nobody learns from that.
            for part in path.partition("?")[0].split("/"):
                text = text.replace(part or "/", "")
            found = [word for word in hidden if word in text]
            assert not found, (path, found)


def test_logged_in_users_see_everything_that_is_private(public: MailWatchProcess) -> None:
    seen = "".join(
        everything(public, path, basic(PASSWORD))[1] for route in ROUTES for path in addresses(public, route)
        if not path.partition("?")[0].endswith(("evidence.zip", ".pdf", ".docx", "/reports"))
    )  # fmt: skip
    # But for passwords, user names and notes, which stand nowhere.
    for word in ("canary-address", "canary-words", "canary-vantage", "canary-place", "127.0.0.1", "example.org"):
        assert word in seen, word
    assert "canary-password" not in seen
    assert PASSWORD not in seen


@pytest.mark.parametrize(
    "path",
    ["//metrics", "/./metrics", "/metrics/", "/METRICS", "/%6detrics", "/static/../metrics", "/healthz/../metrics",
     "/api/v1/observations/", "/about/../ledger", "/ledger;x", "/api/docs?x", "/outages/../observations"],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_around_the_gate(public: MailWatchProcess, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
        connection = http.client.HTTPConnection("127.0.0.1", public.port, timeout=PATIENCE)
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status in (401, 404, 405), (method, path)
        assert not [word for word in CANARIES if word in text]


def test_a_public_target_shows_its_state_days_and_outages_alone(public: MailWatchProcess) -> None:
    status, _, page = ask(public, "/targets/lab%20imap%201")
    assert status == 200
    assert ">lab imap 1<" in page
    assert 'class="bars' in page
    assert re.search(r"/outages/[0-9a-f]{12}", page)
    for hidden in ("response-times", 'id="chart"', texts("en")["on_target"]["settings"], "observations?"):
        assert hidden not in page
    detail = api_answer(public, "targets/lab%20imap%201")
    assert detail["state"] == "up"
    assert detail["availability"]["90d"]["coverage"] is not None
    assert (detail["settings"], detail["certificate"], detail["phases"]) == (None, None, {})
    assert set(detail) >= set(api_answer(public, "targets")[0])
    assert ask(public, "/api/v1/targets/lab%20imap%201/response-times")[0] == 401
    assert ask(public, "/targets/lab%20imap%203", HTML)[0] == 404


def test_states_and_outages_are_shown_under_pseudonyms(public: MailWatchProcess) -> None:
    targets = api_answer(public, "targets")
    assert [t["target"] for t in targets] == ["lab imap 1", "lab imap 2"]
    assert {t["state"] for t in targets} == {"up"}
    real = {o["first_bad"]: o for o in api_answer(public, "outages", basic(PASSWORD))}
    displayed = api_answer(public, "outages")
    assert len(displayed) == len(real) >= 2
    for outage in displayed:
        mine = real[outage["first_bad"]]
        for key in ("last_good", "last_bad", "first_good", "duration", "causes", "phases", "observations"):
            assert outage[key] == mine[key], key
        assert outage["id"] != mine["id"]
        assert outage["target"] in ("lab imap 1", "lab imap 2")
        assert api_answer(public, f"outages/{outage['id']}") == outage
        page = ask(public, f"/outages/{outage['id']}")[2]
        for key in ("last_good", "first_bad", "last_bad", "first_good"):
            assert f'datetime="{outage[key]}"' in page
        assert texts("en")["guard_ours"] in page
        assert "evidence.zip" not in page
    incident = api_answer(public, "incidents")[0]
    assert {o["id"] for o in incident["outages"]} <= {o["id"] for o in displayed}
    assert api_answer(public, f"incidents/{incident['id']}")["stages"]


def test_a_ledger_id_opens_nothing_to_an_anonymous_client(public: MailWatchProcess) -> None:
    real = api_answer(public, "outages", basic(PASSWORD))[0]["id"]
    assert ask(public, f"/outages/{real}")[0] == 404
    assert ask(public, f"/outages/{real}", basic(PASSWORD))[0] == 200


def test_every_link_of_a_public_page_can_be_followed(public: MailWatchProcess) -> None:
    outage = api_answer(public, "outages")[0]["id"]
    for page in ("/", "/outages", "/incidents", "/about", f"/outages/{outage}"):
        base = page.rpartition("/")[0]
        for link in set(re.findall(r'(?:href|src)="([^"#?]+)"', ask(public, page)[2])):
            where = re.sub(r"/[^/]+/\.\./|/\./", "/", f"{base}/{link}")
            assert ask(public, where)[0] == 200, (page, link, where)


def test_pseudonyms_survive_a_restart(public: MailWatchProcess) -> None:
    before = {o["id"] for o in api_answer(public, "outages")}
    assert public.stop() == 0
    public.start()
    assert {o["id"] for o in api_answer(public, "outages")} == before


def test_an_anonymous_client_is_offered_the_log_in_and_gets_in_by_it(public: MailWatchProcess) -> None:
    assert 'href="./login"' in ask(public, "/")[2]
    assert ask(public, "/login", HTML)[0] == 200
    _, headers, _ = ask(public, "/login", HTML, form=f"password={PASSWORD}")
    session = {"Cookie": headers["set-cookie"].partition(";")[0]}
    page = ask(public, "/", session)[2]
    assert "canary-address-1@example.org/imap" in page
    assert texts("en")["public_view"] not in page
    # A wrong password is said to be wrong, not answered with less.
    assert ask(public, "/", basic("wrong"))[0] == 401


def test_outages_are_asked_for_by_their_pseudonyms(public: MailWatchProcess) -> None:
    outages = api_answer(public, "outages")
    name = outages[0]["target"]
    asked = api_answer(public, f"outages?target={quote(name)}")
    assert asked == [one for one in outages if one["target"] == name]
    real = api_answer(public, "outages", basic(PASSWORD))[0]["target"]
    for unknown in (real, "tpyo-of-nobody"):
        status, _, body = ask(public, f"/api/v1/outages?target={quote(unknown)}")
        assert status == 404
        displayed = json.loads(body)["detail"].replace(repr(unknown), "")
        assert not [word for word in CANARIES if word in displayed]
        page = ask(public, f"/outages?target={quote(unknown)}&lang=en", HTML)[2]
        # What one asks for may come back.
        page = page.replace(unknown, "").replace(quote(unknown, safe=""), "")
        assert "There is no target named" in page
        assert not [word for word in CANARIES if word in page]
