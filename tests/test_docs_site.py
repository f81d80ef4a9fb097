"""The documentation builds strictly, is complete, and works offline in a browser."""

import ast
import functools
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.examples import DOCS, ROOT
from tests.helpers.programs import REPOSITORY

PUBLIC = ("torch", "jax", "keras", "checkpoint", "compare")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the site, strictly."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Serves the site to this machine."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Returns a function that opens a page of the given size, and records what goes wrong."""
    contexts, problems = [], []

    def opened(url, size, scheme="light"):
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        origin = url.rpartition("/")[0] if url.startswith("file:") else url
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((origin, "data:", "blob:"))
                else problems.append(request.url)
            ),
        )
        page.goto(f"{url}/index.html" if url.startswith("http") else url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def pages(site):
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def test_no_page_asks_another_host_or_is_wider_than_a_phone(site, address, visit):
    page = visit(address, PHONE)
    for name in pages(site):
        page.goto(f"{address}/{name}")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], name
    assert len(pages(site)) > 30


@pytest.mark.parametrize("how", ["server", "disk"])
def test_the_search_finds_the_page_on_sharding(how, site, address, visit):
    page = visit(address if how == "server" else f"file://{site}/index.html", DESKTOP)
    page.get_by_placeholder("Search").click()
    page.keyboard.type("FSDP2", delay=20)
    page.wait_for_selector(".md-search-result__item")
    links = page.locator(".md-search-result__link").evaluate_all("xs => xs.map(x => x.href)")
    assert any("sharding.html" in link for link in links)


def test_the_colours_follow_the_system_and_the_button(address, visit):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, page = visit(address, DESKTOP).evaluate(colour), visit(address, DESKTOP, "dark")
    page.wait_for_function(f"{colour} != '{light}'")
    page.get_by_title("Switch to light colours").click()
    page.wait_for_function(f"{colour} == '{light}'")


# -- what the pages hold ---------------------------------------------------------------------------


def documented():
    """Returns all names that the pages of the API describe."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("api/*.md"))
    return set(re.findall(r"^::: (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_object_is_in_the_api(module):
    (exported,) = (
        ast.literal_eval(statement.value)
        for statement in ast.parse((ROOT / module / "__init__.py").read_text()).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
    )
    found = documented()
    for name in exported:
        assert {f"novograd.{module}", f"novograd.{module}.{name}"} & found, name


def test_the_api_shows_signatures_arguments_and_examples(site):
    html = (site / "api" / "torch.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", html)
    for words in ("stochastic_rounding", "Learning rate; a float", "optimizer.step()", "Raises"):
        assert words in text, words
    assert "Example:" not in text  # as a section, with its own heading


def test_every_public_object_of_the_checkpoints_is_on_its_page(site):
    from novograd import checkpoint

    html = (site / "api" / "checkpoint.html").read_text(encoding="utf-8")
    for name in checkpoint.__all__:
        assert f'id="novograd.checkpoint.{name}"' in html, name


def test_the_site_has_the_files_that_pages_link_to(site):
    assert (site / "repository/examples/hosts/keras_fit.py.txt").is_file()
    html = (site / "hosts.html").read_text(encoding="utf-8")
    assert 'href="repository/examples/hosts/keras_fit.py.txt"' in html


@pytest.mark.parametrize(
    ("page", "part"), [("sharding", "fully_shard(part"), ("statistics", "class LogStatistics")]
)
def test_pages_show_parts_of_programs(site, page, part):
    text = re.sub(r"<[^>]+>", "", (site / f"{page}.html").read_text(encoding="utf-8"))
    assert part in text
    assert "8<--" not in text


def test_every_page_begins_with_one_title_and_is_in_the_menu():
    menu = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).as_posix()
        assert name in menu, name
        text = path.read_text(encoding="utf-8")
        if not text.startswith("--8<--"):
            titles = re.findall(r"^# .*", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
            assert len(titles) == 1, name
            assert text.startswith("# "), name
