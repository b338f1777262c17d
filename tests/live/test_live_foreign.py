"""From a real browser: a page of another site starts nothing in the WebUI, the WebUI's own page does."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.client import V1
from tests.live.page import chromium

TRAIN = '{"train_data_dir": "lora-eval-live", "max_steps": 1, "name": "foreign"}'
# what a page may send without asking the server first, and what it asks about
ATTEMPTS = {
    "text": f"fetch(URL, {{method: 'POST', mode: 'no-cors', body: '{TRAIN}'}})",
    "no type": f"fetch(URL, {{method: 'POST', mode: 'no-cors', body: new Blob(['{TRAIN}'])}})",
    "beacon": f"navigator.sendBeacon(URL, '{TRAIN}')",
    "json": f"fetch(URL, {{method: 'POST', body: '{TRAIN}', headers: {{'Content-Type': 'application/json'}}}})",
    "interrupt": "fetch(INTERRUPT, {method: 'POST', mode: 'no-cors'})",
}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The address of another site: another port is another origin."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another site</title>")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def jobs(webui: Any) -> list[str]:
    return [job["id"] for job in webui.call(f"{V1}/jobs")]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_page_of_another_site_starts_and_stops_nothing(
    webui: Any, browser: Any, elsewhere: str, attempt: str
) -> None:
    before = jobs(webui)
    page = browser.new_page()
    page.goto(elsewhere)
    code = ATTEMPTS[attempt].replace("INTERRUPT", f"'{webui.url}{V1}/jobs/{before[0] if before else 'x'}/interrupt'")
    asked = code.replace("URL", repr(f"{webui.url}{V1}/train"))
    page.evaluate(f"(async () => {{ try {{ await {asked} }} catch (e) {{}} }})()")
    page.wait_for_timeout(500)
    assert jobs(webui) == before
    page.close()


def test_a_name_that_was_rebound_to_the_machine_reads_nothing(webui: Any) -> None:
    """What a browser sends after its name's address has changed to this machine's."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{webui.url}{V1}/jobs", headers={"Host": "rebound.example:7860"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 403


def test_the_webuis_own_page_is_let_in(webui: Any, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{webui.url}{V1}/health")
    code = f"fetch('{V1}/check', {{method: 'POST', headers: {{'Content-Type': 'application/json'}}, body: BODY}})"
    body = "JSON.stringify({data: 'lora-eval-live'})"
    assert page.evaluate(f"(async () => (await {code.replace('BODY', body)}).status)()") == 200
    page.close()
