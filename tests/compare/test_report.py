"""Tests of the report: the content of the page, and the page in a browser."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from html import unescape
from io import StringIO

import numpy as np
import pytest

from novograd.compare import report, runner
from novograd.compare.analysis import analyse
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.plan import FIRST_JUDGE, Settings, search
from novograd.compare.report.charts import charts, learning_rates, time
from novograd.compare.report.page import render
from novograd.compare.report.segmentations import segmentations
from novograd.compare.sentences import protocol
from tests.helpers.parameters import some

STEPS, SEEDS = 20, 5
RATES = {"novograd": [0.003, 0.01, 0.03], "adamw": [0.001, 0.003, 0.01], "sgd": [0.03, 0.1, 0.3]}
BEST = {"novograd": 0.01, "adamw": 0.003, "sgd": 0.1}
LEVEL = {"novograd": 0.71, "adamw": 0.83, "sgd": 0.715}
NOISE = {"novograd": (0, 2, 1), "adamw": (1, 0, 2), "sgd": (0, 1, 3)}  # hundredths, by seed
ABOUT = {
    "title": "Label shapes",
    "about": "Invented; it shows nothing.",
    "higher_is_better": True,
    "margin": 0.02,
    "validated": True,
    "steps": STEPS,
    "learning_rates": {},
}
CHARTS = ["learning-rates", "learning-curves", "training-loss", "state", "time"]
PICTURES = [f"segmentation-{name}-{rate:g}" for name, rate in BEST.items()]
HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>"


def row(name, rate, seed):
    """Returns a finished run; its score is best at the best rate."""
    noise = 0.01 * NOISE[name][seed % 3]
    metrics = {"score": LEVEL[name] - 0.1 * (rate != BEST[name]) + noise, "shape": 0.5}
    return {
        "optimizer": name,
        "learning_rate": rate,
        "seed": seed,
        "part": "test" if seed >= FIRST_JUDGE else "validation",
        "loss": [2 / step for step in range(1, STEPS + 1)],
        "evaluations": [
            {"step": step, "metrics": {key: part * value for key, value in metrics.items()}}
            for step, part in ((10, 0.5), (20, 1))
        ],
        "status": "finished",
        "held_out_loss": 0.3,
        "metrics": metrics,
        "step_ms": 40.0,
        "state_bytes": 8000 if name == "adamw" else 4000,
        "weight_bytes": 4000,
        "update_ms": 1.2,
        "settings": {"beta1": 0.95, "betas": [0.9, 0.98]},
        "versions": {"torch": "2.13.0"},
    }


def made(task="shapes", seeds=SEEDS):
    """Returns results in which NovoGrad is behind AdamW, and not clearly behind SGD."""
    settings = Settings(task, "torch", RATES, seeds, STEPS, "cosine", quick=True)
    fresh = runner.begin(settings, ABOUT, 2, "novograd compare shapes.py --quick")
    rows = [row(run.optimizer, run.learning_rate, run.seed) for run in search(settings)]
    judges = range(FIRST_JUDGE, FIRST_JUDGE + seeds)
    rows += [row(name, BEST[name], seed) for seed in judges for name in RATES]
    return json.loads(json.dumps(fresh | {"status": "finished", "runs": rows}))


def failed(one, error="ValueError: no", traceback="Traceback\nValueError: no\n"):
    fields = ("optimizer", "learning_rate", "seed", "part")
    ended = {"status": "failed", "error": error, "traceback": traceback}
    return {name: one[name] for name in fields} | ended | {"loss": [], "evaluations": []}


def draw_pictures(output):
    """Writes pictures of the first judged run of all optimizers."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (2, 12, 20), dtype=np.uint8)
    (output / runner.PICTURES).mkdir()
    for optimizer, rate in BEST.items():
        name = runner.picture_of({"optimizer": optimizer, "learning_rate": rate})
        path = output / runner.PICTURES / name
        arrays = {"images": random.random((2, 12, 20)), "truth": truth, "predicted": truth[::-1]}
        np.savez(path, **arrays, classes=("square", "ring"))


def page_of(results):
    """Returns the page without figures."""
    return render(analyse(results), {}, [])


def written(results, output):
    report.write(analyse(results), output)
    return (output / report.PAGE).read_text(encoding="utf-8")


def cells(page):
    """Returns the cells of the matrix: their classes, and their texts without markup."""
    table = page[page.index('<table class="matrix"') :]
    found = re.findall(r'<td class="(\w+)">(.*?)</td>', table[: table.index("</table>")], re.S)
    return [(kind, " ".join(unescape(re.sub("<.*?>", " ", text)).split())) for kind, text in found]


def spread_out(results):
    """Makes the results of one optimizer differ by several powers of ten."""
    for one in results["runs"]:
        rank = sorted(RATES[one["optimizer"]]).index(one["learning_rate"])
        one["loss"] = [10.0 ** (-step / 4) for step in range(STEPS)]
        for found in (one, *one["evaluations"]):
            found["metrics"]["score"] *= 10.0 ** (-2 * rank)
    return results


@pytest.fixture(scope="module")
def full_results():
    results = made()
    results["runs"][3].update(status="diverged", diverged_at=17)
    results["runs"][6] = failed(results["runs"][6], f"ValueError: {HOSTILE}", "a line of it " * 30)
    results["command"] = f"novograd compare {HOSTILE}"
    return results


@pytest.fixture(scope="module")
def full(full_results, tmp_path_factory):
    """A report with all sections: pictures, a run that diverged, and a run that failed."""
    output = tmp_path_factory.mktemp("full")
    draw_pictures(output)
    report.write(analyse(full_results), output)
    return output


# Content


def test_the_page_contains_the_numbers():
    page = unescape(page_of(made()))
    for text in (
        "<title>Label shapes",
        "AdamW is ahead of Nesterov SGD and NovoGrad.",
        "0.840 at rate 0.003",
        "8,000",
        "betas=(0.9, 0.98)",
        "2.13.0",
        "novograd compare shapes.py --quick",
        "first tenth of each run",
        "Invented; it shows nothing.",
        protocol(analyse(made())),
    ):
        assert text in page, text


def test_the_matrix_marks_the_differences_that_are_shown():
    assert cells(page_of(made())) == [
        ("same", "·"),
        ("behind", "\u22120.118 ▼ behind \u22120.138 to \u22120.098"),
        ("unclear", "\u22120.005 \u22120.020 to +0.010"),
        ("ahead", "+0.118 ▲ ahead +0.098 to +0.138"),
        ("same", "·"),
        ("ahead", "+0.113 ▲ ahead +0.099 to +0.127"),
        ("unclear", "+0.005 \u22120.010 to +0.020"),
        ("behind", "\u22120.113 ▼ behind \u22120.127 to \u22120.099"),
        ("same", "·"),
    ]


def test_the_better_optimizer_has_positive_numbers_also_if_lower_is_better():
    results = made()
    results["task"]["higher_is_better"] = False
    kinds = [kind for kind, _ in cells(page_of(results))]
    assert kinds[:5] == ["same", "ahead", "unclear", "behind", "same"]
    assert cells(page_of(results))[1][1].startswith("+0.118")
    assert "(lower is better)" in page_of(results)


def test_every_figure_is_a_file_in_two_formats(full):
    names = sorted(path.name for path in (full / report.FIGURES).iterdir())
    assert names == sorted(f"{n}.{kind}" for n in CHARTS + PICTURES for kind in ("png", "svg"))
    for path in (full / report.FIGURES).iterdir():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG\r\n")
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def texts(drawing):
    """Returns the texts of a figure."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", drawing.svg)


def test_ticks_of_logarithmic_axes_are_plain_numbers():
    drawn = charts(analyse(spread_out(made())))
    assert {"0.0001", "0.001", "0.01", "0.1"} <= {*texts(drawn["learning-rates"])}
    assert {"0.001", "0.01", "0.1"} <= {*texts(drawn["training-loss"])}
    for one in drawn.values():
        assert not [text for text in texts(one) if re.search(r"[$^{}\\]|e-", text)]


def test_titles_and_axes_differ_between_figures():
    drawn = charts(analyse(made())).values()
    axes = [one.figure.axes[0] for one in drawn]
    assert len({one.get_title(loc="left") for one in axes}) == len(CHARTS)
    assert [one.get_ylabel() for one in axes[:3]] == [
        "score (validation)", "score (test)", "training loss"
    ]  # fmt: skip


def test_figures_are_described_with_their_numbers(full):
    page = (full / report.PAGE).read_text(encoding="utf-8")
    labels = re.findall('<svg role="img" aria-label="([^"]*)"', page)
    assert len({*labels}) == len(CHARTS + PICTURES)
    assert "At the chosen learning rates: NovoGrad 0.710 at 0.01, AdamW 0.840 at 0.003" in labels[0]
    assert "At step 20: NovoGrad 0.720, AdamW 0.840, Nesterov SGD 0.725." in labels[1]
    assert "AdamW 8,000 (2.00 x weights)" in labels[-2]


def test_every_guide_of_a_figure_has_a_row_of_values():
    for one in charts(analyse(made())).values():
        rows = [] if one.values is None else one.values.rows
        assert len(re.findall(f'id="{one.name}-guide-', one.svg)) == len(rows)


def test_the_values_of_the_learning_rates(full_results):
    values = learning_rates(analyse(full_results)).values
    assert [column.heading for column in values.columns] == [
        "learning rate", "NovoGrad", "AdamW", "Nesterov SGD"
    ]  # fmt: skip
    assert ("0.01", "0.710, chosen", "0.740", "") in values.rows
    assert "no result" in values.rows[1]


def test_ids_are_unique(full):
    page = (full / report.PAGE).read_text(encoding="utf-8")
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) > 100
    assert len(ids) == len(set(ids))


def test_classes_are_named(full):
    text = (full / report.FIGURES / f"{PICTURES[1]}.svg").read_text(encoding="utf-8")
    assert all(name in text for name in ("image", "truth", "AdamW", "square", "ring"))


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_results_give_the_same_bytes(kind, full):
    drawn = [*segmentations(analyse(made()), full), time(analyse(made()))]
    assert [one.name for one in drawn] == [*PICTURES, "time"]
    for one in drawn:
        content = one.png if kind == "png" else one.svg.encode()
        assert content == (full / report.FIGURES / f"{one.name}.{kind}").read_bytes()


def downloads(page):
    """Returns the files inside a page."""
    found = re.findall(r'<a download="([^"]*)" href="data:[^;]*;base64,([^"]*)"', page)
    return {name: b64decode(content).decode() for name, content in found}


def test_the_data_are_inside_the_page(full_results):
    files = downloads(page_of(full_results))
    assert json.loads(files["results.json"]) == full_results
    rows = list(csv.DictReader(StringIO(files["runs.csv"])))
    assert len(rows) == len(full_results["runs"])
    assert rows[-1]["optimizer"] == "sgd"
    assert (rows[-1]["part"], rows[-1]["metrics.score"]) == ("test", "0.725")
    assert rows[3]["diverged_at"] == "17"
    assert rows[6]["error"] == f"ValueError: {HOSTILE}"


def test_foreign_text_is_escaped(tmp_path):
    results = made()
    results["command"] = results["task"]["title"] = results["task"]["about"] = HOSTILE
    results["settings"]["task"] = results["machine"]["processor"] = HOSTILE
    results["runs"][4] = failed(results["runs"][4], HOSTILE, HOSTILE)
    for one in results["runs"]:
        if one["status"] == "finished":
            one["metrics"] = {f"$\\frac{HOSTILE}": one["metrics"]["score"]}
            for found in one["evaluations"]:
                found["metrics"] = {f"$\\frac{HOSTILE}": found["metrics"]["score"]}
    page = written(results, tmp_path)
    assert page.count("<script") == 1  # that of the page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") > 6


def test_report_without_a_finished_run(tmp_path):
    results = made()
    results["runs"] = [failed(one) for one in results["runs"]]
    page = written(results, tmp_path)
    assert "There are no results on test data, so there is nothing to compare." in page
    assert "24 of 24 runs failed" in page
    assert "ValueError: no (24 runs)" in page
    assert "<svg" not in page
    assert "novograd compare shapes.py" in page


def test_report_without_runs(tmp_path):
    results = made() | {"runs": [], "status": "interrupted", "planned": 9}
    assert "Interrupted: 0 of 9 runs ended." in written(results, tmp_path)


def test_one_seed_compares_nothing():
    page = page_of(made(seeds=1))
    assert {kind for kind, _ in cells(page)} == {"same", "missing"}
    assert "not compared: at least two seeds are needed" in page
    assert "ahead of" not in page


def test_all_cautions_are_in_one_box():
    results = made() | {"status": "interrupted", "planned": 99}
    results["task"]["validated"] = False
    results["runs"][6] = failed(results["runs"][6])
    page = page_of(results)
    box = page[page.index('<div class="caution"') :]
    box = box[: box.index("</div>")]
    assert page.count('<div class="caution"') == 1
    assert [box.count(text) for text in ("<li>", "failed", "Interrupted", "no validation")] == [
        3, 1, 1, 1
    ]  # fmt: skip
    assert '<div class="caution"' not in page_of(made())


def test_an_interrupted_comparison_shows_the_runs_that_ended(tmp_path):
    results = made() | {"status": "interrupted", "planned": 15}
    results["runs"] = [one for one in results["runs"] if one["optimizer"] == "novograd"][:4]
    page = written(results, tmp_path)
    assert "Interrupted: 4 of 15 runs ended." in page
    assert "NovoGrad has the only results: score 0.710." in page
    assert page.count("<figure>") == len(CHARTS)


def test_without_a_search_there_is_no_figure_of_learning_rates(tmp_path):
    results = made()
    results["runs"] = [one for one in results["runs"] if one["part"] == "test"]
    page = written(results, tmp_path)
    assert "Each optimizer was trained at one learning rate only." in page
    assert page.count("<figure>") == len(CHARTS) - 1


def test_one_optimizer_without_a_search():
    results = made()
    searched = ("adamw", "validation")
    results["runs"] = [
        one for one in results["runs"] if (one["optimizer"], one["part"]) != searched
    ]
    assert [one[2] for one in learning_rates(analyse(results)).values.rows] == [""] * 5


def test_missing_pictures_are_left_out(full, tmp_path):
    shutil.copytree(full / runner.PICTURES, tmp_path / runner.PICTURES)
    next((tmp_path / runner.PICTURES).glob("sgd*")).unlink()
    found = segmentations(analyse(made()), tmp_path)
    assert [one.name for one in found] == PICTURES[:2]


def test_a_rate_at_which_runs_diverged_is_marked():
    results = made()
    assert ">diverged<" not in learning_rates(analyse(results)).svg
    diverged = results["runs"][3]
    diverged.update(status="diverged", diverged_at=17)
    assert ">diverged<" in learning_rates(analyse(results)).svg
    where = f"learning rate {diverged['learning_rate']:g}, seed 0: at step 17"
    assert where in page_of(results)


def test_all_optimizers_fit():
    results = made()
    runs = [one for one in results["runs"] if one["optimizer"] == "adamw"]
    results["runs"] = [{**one, "optimizer": name} for name in OPTIMIZERS for one in runs]
    results["optimizers"] = {name: one.title for name, one in OPTIMIZERS.items()}
    results["settings"]["learning_rates"] = dict.fromkeys(OPTIMIZERS, RATES["adamw"])
    shown = texts(learning_rates(analyse(results)))
    assert {one.title for one in OPTIMIZERS.values()} <= {*shown}
    assert len(cells(page_of(results))) == len(OPTIMIZERS) ** 2


# In a browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# WCAG contrast of every text with the nearest background that is not transparent.
CONTRASTS = """() => {
  const rgba = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return {r, g, b, a};
  };
  const luminance = ({r, g, b}) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour.a) return colour;
    }
  };
  const own = element => [...element.childNodes].some(
    node => node.nodeType === Node.TEXT_NODE && node.data.trim());
  return [...document.body.querySelectorAll("*")].filter(own).filter(
    element => !element.closest("svg") || element.closest("text")).map(element => {
    const style = getComputedStyle(element);
    const colour = rgba(element.closest("svg") ? style.fill : style.color);
    const [low, high] = [luminance(colour), luminance(behind(element))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.closest("svg") ? "svg" : "html",
      element.textContent.slice(0, 40)];
  });
}"""


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(params=some(["light", "dark"], kept=["light"]))
def scheme(request):
    return request.param


in_both_schemes = pytest.mark.parametrize("scheme", ["light", "dark"], indirect=True)


@pytest.fixture
def opened(browser, full, scheme):
    """The report in an offline browser; fails on any request, console message or error."""
    context = browser.new_context(
        offline=True, color_scheme=scheme, viewport={"width": 1100, "height": 800}
    )
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    url = (full / report.PAGE).as_uri()
    page.goto(url)
    yield page
    assert [one for one in requests if not one.startswith("data:")] == [url]
    assert complaints == []
    context.close()


def test_figures_are_visible(opened):
    figures = opened.locator("figure svg")
    assert figures.count() == len(CHARTS) + len(PICTURES)
    for figure in figures.all():
        assert figure.is_visible()
        box = figure.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    assert opened.locator("figure image").count() == 2 * 3 * len(PICTURES)


def readout(page):
    """Returns the visible values of the first figure, by name, or None."""
    shown = page.locator(".readout").first
    if not shown.is_visible():
        return None
    texts = shown.locator("dt, dd").all_inner_texts()
    return dict(zip(texts[::2], texts[1::2], strict=True))


def test_values_are_shown_next_to_the_pointer(opened):
    plot = opened.locator(".plot").first
    plot.scroll_into_view_if_needed()
    assert readout(opened) is None
    for guide, rate in (("#learning-rates-guide-1", "0.003"), ("#learning-rates-guide-2", "0.01")):
        box = opened.locator(guide).bounding_box()
        opened.mouse.move(box["x"] + 5, box["y"] + 20)
        assert readout(opened)["learning rate"] == rate
        assert opened.locator(".plot .on").get_attribute("id") == guide[1:]
        below = opened.locator(".readout").first.bounding_box()["y"]
        assert below > box["y"] + box["height"]  # it does not hide the curves
    assert readout(opened)["NovoGrad"] == "0.710, chosen"
    assert "Nesterov SGD" not in readout(opened)  # it did not run at this rate
    box = plot.bounding_box()
    opened.mouse.move(box["x"] - 10, box["y"])
    assert readout(opened) is None
    assert opened.locator(".plot .on").count() == 0


def test_values_are_reachable_by_keyboard(opened):
    opened.locator(".plot").first.focus()
    shown = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home"):
        opened.keyboard.press(key)
        shown.append(readout(opened)["learning rate"])
    assert shown == ["0.001", "0.003", "0.001", "0.3", "0.3", "0.001"]
    opened.keyboard.press("Escape")
    assert readout(opened) is None
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Tab")
    assert readout(opened) is None


def test_tables_are_sorted_by_their_numbers(opened):
    from playwright.sync_api import expect

    rates = opened.locator("table[aria-labelledby=quality] tbody td:nth-child(2)")
    heading = opened.locator("table[aria-labelledby=quality] th").nth(1)
    expect(rates).to_have_text(["0.01", "0.003", "0.1"])
    heading.get_by_role("button").click()
    expect(rates).to_have_text(["0.003", "0.01", "0.1"])
    expect(heading).to_have_attribute("aria-sort", "ascending")
    heading.get_by_role("button").press("Enter")
    expect(rates).to_have_text(["0.1", "0.01", "0.003"])
    expect(heading).to_have_attribute("aria-sort", "descending")


def test_the_command_is_copied(browser, full):
    context = browser.new_context(offline=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto((full / report.PAGE).as_uri())
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f"novograd compare {HOSTILE}"
    context.close()


def test_without_a_clipboard_the_command_is_selected(opened):
    opened.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    opened.get_by_role("button", name="Copy").click()
    opened.get_by_role("button", name="Selected").wait_for()
    assert opened.evaluate("getSelection().toString()") == f"novograd compare {HOSTILE}"
    opened.keyboard.press("Tab")
    opened.get_by_role("button", name="Copy").wait_for()


@pytest.mark.parametrize("name", ["results.json", "runs.csv"])
def test_the_data_are_downloaded(opened, full, name):
    with opened.expect_download() as download:
        opened.get_by_role("link", name=name).click()
    assert download.value.suggested_filename == name
    content = download.value.path().read_text(encoding="utf-8")
    assert content == downloads((full / report.PAGE).read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_a_narrow_screen(opened, width):
    opened.set_viewport_size({"width": width, "height": 740})
    for summary in opened.locator("summary").all():
        summary.click()  # shows the long line of the failure
    assert opened.evaluate("document.scrollingElement.scrollWidth") <= width
    for table in opened.locator(".scroll").all():
        assert table.bounding_box()["width"] <= width


def test_a_table_that_scrolls_says_so(opened):
    hint = opened.locator(".table > .hint").first
    assert not hint.is_visible()
    opened.set_viewport_size({"width": 390, "height": 740})
    hint.wait_for()
    assert hint.inner_text().startswith("scroll sideways")
    matrix = opened.locator(".scroll").first
    assert "more" in matrix.get_attribute("class")
    matrix.evaluate("box => box.scrollLeft = box.scrollWidth")
    opened.locator(".scroll:not(.more)").first.wait_for()
    assert "more" not in matrix.get_attribute("class")
    assert matrix.locator("tbody th").first.bounding_box()["x"] >= 0  # the name stays


@in_both_schemes
def test_text_is_readable(opened):
    opened.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    contrasts = opened.evaluate(CONTRASTS)
    assert {kind for _, kind, _ in contrasts} == {"html", "svg"}
    assert [one for one in contrasts if one[0] < 4.5] == []


@in_both_schemes
def test_light_and_dark_differ(opened, scheme):
    channels = opened.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert min(channels) > 240 if scheme == "light" else max(channels) < 40


def test_foreign_text_is_shown_and_not_run(opened):
    assert HOSTILE in opened.locator("#command").inner_text()
    assert opened.locator("script").count() == 1
    assert opened.locator("img").count() == 0


def test_structure(opened):
    assert opened.locator("h1").all_inner_texts() == ["Label shapes"]
    assert opened.locator("th:not([scope])").count() == 0
    assert opened.evaluate("document.documentElement.lang") == "en"
    assert opened.locator("h2").first.inner_text() == "Which optimizer is ahead?"
    named = opened.evaluate(
        """[...document.querySelectorAll("[aria-labelledby], [aria-describedby], [aria-controls]")]
        .flatMap(one => ["aria-labelledby", "aria-describedby", "aria-controls"]
          .map(name => one.getAttribute(name))).filter(name => name)"""
    )
    assert [one for one in named if opened.locator(f"#{one}").count() != 1] == []


def test_the_matrix_is_on_the_first_screen(opened):
    box = opened.locator("table.matrix").bounding_box()
    assert box["y"] + box["height"] < 800
