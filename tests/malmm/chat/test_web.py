"""The page of a running server: over HTTP, and in a real Chromium where there is one."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from malmm.__main__ import main
from malmm.chat.server import Address
from malmm.data.mini import draw, make_world_item
from tests.malmm.chat.conftest import serving

CHROMIUM = os.environ.get("MALMM_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SLOW_MACHINE = 120_000  # milliseconds that the page may take; nothing is timed


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    draw(make_world_item("val", 0)[1]).save(path)
    return path


QUESTIONS = [round_.question for round_ in make_world_item("val", 0)[2].rounds]

# -- one user and another, over HTTP -----------------------------------------------------------------


def upload(client: httpx.Client, path: Path, name: str | None = None) -> str:
    """Where the server put the file."""
    answer = client.post("/gradio_api/upload", files={"files": (name or path.name, path.read_bytes())})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def event(client: httpx.Client, number: int, data: list[Any], page: str) -> list[dict[str, Any]]:
    """One of the page's events, as the browser sends it -> all that the server says of it."""
    body = {"data": data, "fn_index": number, "session_hash": page, "event_data": None, "trigger_id": None}
    joined = client.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    messages = client.get("/gradio_api/queue/data", params={"session_hash": page}).text
    return [json.loads(line[5:]) for line in messages.splitlines() if line.startswith("data:")]


def turn(client: httpx.Client, text: str, files: list[str], page: str) -> tuple[str, list[str]]:
    """Send something -> what the page shows then, as JSON, and the warnings."""
    event(client, 0, [], page)  # the page is loaded
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in files]
    messages = event(client, 1, [{"text": text, "files": data}, None], page)
    (done,) = [message for message in messages if message["msg"] == "process_completed"]
    assert done["success"], done
    return json.dumps(done), [message["log"] for message in messages if message["msg"] == "log"]


def test_who_is_not_signed_in_sees_nothing(server: Any) -> None:
    client = server.client()
    page = client.get("/", headers={"accept": "text/html"})
    assert page.status_code == 303 and page.headers["location"] == "/sign-in"
    for path in (
        "/config",
        "/media/1",
        "/export",
        "/gradio_api/info",
        "/gradio_api/queue/data?session_hash=a",
    ):
        assert client.get(path).status_code == 401, path
    assert client.post("/gradio_api/upload", files={"files": b"a"}).status_code == 401
    for name, password in (("ana", "wrong"), ("eve", "the password of ana"), ("ana", "")):
        refused = client.post("/sign-in", data={"name": name, "password": password})
        assert refused.status_code == 401 and "do not belong together" in refused.text
        assert not refused.cookies


def test_signing_out_ends_the_session_and_not_only_the_cookie(server: Any) -> None:
    client = server.client("ana")
    cookies = dict(client.cookies)
    assert client.get("/config").status_code == 200
    assert client.post("/sign-out").status_code == 303
    assert (
        server.client()
        .get("/config", headers={"cookie": f"malmm_session={cookies['malmm_session']}"})
        .status_code
        == 401
    )


def test_the_cookie_is_out_of_a_scripts_reach(server: Any) -> None:
    answer = server.client().post("/sign-in", data={"name": "ana", "password": "the password of ana"})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_nobody_reaches_what_another_uploaded_showed_or_asked(server: Any, picture: Path) -> None:
    ana, bob = server.client("ana"), server.client("bob")
    path = upload(ana, picture, "private.png")
    assert ana.get(f"/gradio_api/file={path}").content == picture.read_bytes()
    for way in (f"file={path}", f"file%3D{path}", f"file={path}/", f"file=/..{path}", f"file/{path}"):
        assert bob.get(f"/gradio_api/{way}").status_code == 404, way

    shown, _ = turn(ana, "anas secret garden", [path], "page-of-ana")
    id = re.findall(r"/media/(\d+)", shown)[0]
    assert ana.get(f"/media/{id}").content == picture.read_bytes()
    assert bob.get(f"/media/{id}").status_code == 404

    stolen, warnings = turn(bob, "", [path], "page-of-bob")  # another's upload, sent as one's own
    assert f"/media/{id}" not in stolen and "secret garden" not in stolen
    assert "not among those that you uploaded" in warnings[0]

    with zipfile.ZipFile(io.BytesIO(bob.get("/export").content)) as exported:
        assert b"secret garden" not in b"".join(exported.read(name) for name in exported.namelist())
    with zipfile.ZipFile(io.BytesIO(ana.get("/export").content)) as exported:
        contents = [exported.read(name) for name in exported.namelist()]
    assert picture.read_bytes() in contents and any(b"secret garden" in content for content in contents)


def test_a_page_belongs_to_who_opened_it(server: Any) -> None:
    ana, bob = server.client("ana"), server.client("bob")
    event(ana, 0, [], "hash-of-ana")
    body = {"data": [], "fn_index": 0, "session_hash": "hash-of-ana"}
    assert bob.post("/gradio_api/queue/join", json=body).status_code == 403
    for path in ("queue/data?session_hash=hash-of-ana", "heartbeat/hash-of-ana"):
        assert bob.get(f"/gradio_api/{path}").status_code == 403, path


def test_of_gradios_routes_only_those_of_the_page_are_there(server: Any) -> None:
    client = server.client("ana")
    hidden = ["proxy=http://localhost/", "file=http://localhost/", "file=/etc/passwd", "run-history/records"]
    for path in (*hidden, "call/turn", "app_id"):
        assert client.get(f"/gradio_api/{path}").status_code == 404, path
    assert client.post("/gradio_api/run/turn", json={"data": []}).status_code == 404
    assert client.get("/monitoring").status_code == 404


def test_pages_of_other_sites_are_refused(server: Any) -> None:
    client = server.client("ana")
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        body = {"data": [], "fn_index": 0, "session_hash": "evil"}
        headers = {"origin": origin}
        assert client.post("/gradio_api/queue/join", json=body, headers=headers).status_code == 403
        assert client.post("/v1/chat/completions", json={}, headers=headers).status_code == 403
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_too_large_an_upload_is_refused(server: Any, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b" " * (3 * 2**20))
    client = server.client("ana")
    answer = client.post("/gradio_api/upload", files={"files": (tmp_path / "large.png").open("rb")})
    assert answer.status_code == 413 and "larger than 2 MiB" in answer.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.png", b"no picture", "picture broken.png cannot be read"),
        ("broken.wav", b"no sound", "broken.wav"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_sentence(
    server: Any, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    client = server.client("bob")
    (tmp_path / name).write_bytes(content)
    path = upload(client, tmp_path / name)
    _, (warning,) = turn(client, "a", [path], f"page-{name}")
    assert words in warning and str(Path(path).parent) not in warning


# -- the command -------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on its one line of errors."""
    with pytest.raises(SystemExit) as end:
        main(["serve", *arguments])
    captured = capsys.readouterr()
    assert end.value.code == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_others_are_let_in_with_accounts_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.0.7", "::", "example.org"):
        assert "--auth" in refused(capsys, "--host", host)
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert Address(host).local
    (tmp_path / "none.txt").touch()
    assert "has no account" in refused(capsys, "--auth", str(tmp_path / "none.txt"))
    assert "there is no file of accounts" in refused(capsys, "--auth", str(tmp_path / "nowhere.txt"))


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused(capsys, "--port", str(port))


def test_a_single_user_and_ctrl_c(project: Path, tmp_path: Path) -> None:
    """Without --auth: no sign-in, this machine's names only; Ctrl-C ends it although a page is open."""
    with serving(project, "--store", str(tmp_path / "memory.db"), stderr=subprocess.PIPE) as (process, url):
        assert httpx.get(url).status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 200
        rebound = httpx.get(url, headers={"host": "rebound.example"})
        assert rebound.status_code == 403
        with httpx.stream("GET", f"{url}/gradio_api/heartbeat/open", timeout=60) as page:
            assert page.status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert process.communicate() == ("", "")
    assert (tmp_path / "memory.db").exists()


# -- the page in a browser ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the browser's driver is absent: playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install it, or name one in MALMM_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visit:
    """A user's page, with the log of what it loaded."""

    def __init__(self, browser: Any, url: str, user: str, width: int = 1280, height: int = 800) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW_MACHINE)
        self.loaded: list[str] = []
        self.page.on("request", lambda request: self.loaded.append(request.url))
        self.failed: list[str] = []
        self.page.on(
            "response", lambda answer: self.failed.append(answer.url) if answer.status >= 400 else None
        )
        self.page.goto(url)
        self.page.fill("[name=name]", user)
        self.page.fill("[name=password]", f"the password of {user}")
        self.page.click("button")
        self.page.wait_for_selector("#why .panel")

    def say(self, text: str) -> None:
        self.page.fill("#box textarea", text)
        self.page.press("#box textarea", "Enter")

    def show(self, path: Path, caption: str) -> None:
        self.page.set_input_files("#box input[type=file]", str(path))
        self.page.wait_for_selector("#box .thumbnail-item")
        self.say(caption)

    def ask(self, question: str) -> None:
        before = self.page.locator("#why details").count()
        self.say(question)
        self.page.wait_for_function("n => document.querySelectorAll('#why details').length > n", arg=before)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def texts(self, selector: str) -> list[str]:
        return [element.strip() for element in self.page.locator(selector).all_inner_texts()]


def test_the_page_comes_from_the_server_alone(server: Any, browser: Any) -> None:
    visit = Visit(browser, server.url, "carol", 390, 844)
    assert visit.loaded and all(url.startswith((server.url, "data:", "blob:")) for url in visit.loaded)
    assert visit.failed == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing sticks out
    visit.context.close()


@pytest.mark.slow
def test_a_visit(server: Any, browser: Any, picture: Path, tmp_path: Path) -> None:
    """Sign in, show, ask, see why, pin, delete; another user sees none of it."""
    visit = Visit(browser, server.url, "ines")
    page = visit.page
    visit.show(picture, "two shapes in the garden")
    page.wait_for_selector("#talk img[src^='/media/']")
    visit.ask(QUESTIONS[0])
    visit.ask(QUESTIONS[0])  # remembers that it was asked
    assert visit.texts("#why summary")[0].startswith(QUESTIONS[0])
    assert page.locator("#why details[open] .bar").count() % 4 == 0
    assert page.locator("#why details[open] .memory").count() > 0
    answers = visit.texts("#talk .bot.message")
    assert len(answers) == 2 and all(answers)

    visit.tab("Bank")
    page.wait_for_selector("#bank .slot")
    assert len(visit.texts("#bank .slot")) == 3
    visit.tab("Memories")
    page.wait_for_selector("#memories .memory")
    before = page.locator("#memories .memory").count()
    first = page.locator("#memories .memory").first
    first.get_by_text("Pin").click()
    page.wait_for_selector("#memories .memory.is-pinned")

    shown = page.locator("#memories .memory", has=page.locator("img"))
    shown.locator("[data-ask]").click()
    assert page.locator("#memories .confirm:visible").count() == 1
    shown.locator("[data-keep]").click()
    assert page.locator("#memories .confirm:visible").count() == 0
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    shown.locator("[data-ask]").click()
    shown.locator("[data-act=delete]").click()
    page.wait_for_function("n => document.querySelectorAll('#memories .memory').length === n", arg=before - 1)
    assert page.locator("#talk img[src^='/media/']").count() == 0
    assert page.locator("#memories img").count() == 0

    page.fill("#search textarea, #search input", "nothing like it")
    page.press("#search textarea, #search input", "Enter")
    page.wait_for_selector("#memories >> text=the best first")
    with page.expect_download() as download:
        page.click("text=Export")
    assert zipfile.is_zipfile(download.value.path())
    page.click("#new")
    page.wait_for_function("document.querySelectorAll('#talk .message').length === 0")
    assert all(url.startswith((server.url, "data:", "blob:")) for url in visit.loaded)

    other = Visit(browser, server.url, "jan")
    other.tab("Memories")
    other.page.wait_for_selector("#memories .empty")
    assert other.page.locator("#memories .memory, #talk .message").count() == 0
    visit.context.close()
    other.context.close()


@pytest.mark.slow
def test_a_corrupt_picture_in_the_page(server: Any, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    visit = Visit(browser, server.url, "fritz")
    visit.show(tmp_path / "broken.png", "what is it?")
    visit.page.wait_for_selector("text=the picture broken.png cannot be read")
    assert visit.page.input_value("#box textarea") == "what is it?"  # nothing typed is lost
    visit.context.close()
