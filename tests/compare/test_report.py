"""Tests of the report: the content of the page, and the page in a browser."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from novograd.compare import report, runner
from novograd.compare.analysis import analyse
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.plan import Settings, search
from novograd.compare.report.figures import learning_rates, png, segmentations, svg, time
from novograd.compare.report.page import render
from novograd.compare.sentences import protocol
from tests.helpers.parameters import some

STEPS, SEEDS = 20, 3
RATES = {"novograd": [0.003, 0.01, 0.03], "adamw": [0.001, 0.003, 0.01], "sgd": [0.03, 0.1, 0.3]}
BEST = {"novograd": 0.01, "adamw": 0.003, "sgd": 0.1}
LEVEL = {"novograd": 0.71, "adamw": 0.83, "sgd": 0.72}
ABOUT = {
    "title": "Label shapes",
    "about": "Invented; it shows nothing.",
    "higher_is_better": True,
    "margin": 0.02,
    "steps": STEPS,
    "learning_rates": {},
}
FIGURES = ["learning-curves", "learning-rates", "state", "time", "training-loss"]
PICTURES = [f"segmentation-{name}" for name in RATES]
HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>"


def row(name, rate, seed):
    """Returns a finished run; its score is best at the best rate and rises with the seed."""
    metrics = {"score": LEVEL[name] - 0.1 * (rate != BEST[name]) + 0.01 * seed, "shape": 0.5}
    return {
        "optimizer": name,
        "learning_rate": rate,
        "seed": seed,
        "loss": [2 / step for step in range(1, STEPS + 1)],
        "evaluations": [
            {"step": step, "metrics": {key: part * value for key, value in metrics.items()}}
            for step, part in ((10, 0.5), (20, 1))
        ],
        "status": "finished",
        "test_loss": 0.3,
        "metrics": metrics,
        "step_ms": 40.0,
        "state_bytes": 8000 if name == "adamw" else 4000,
        "weight_bytes": 4000,
        "update_ms": 1.2,
        "settings": {"beta1": 0.95, "betas": [0.9, 0.98]},
        "versions": {"torch": "2.13.0"},
    }


def made(task="shapes", seeds=SEEDS):
    """Returns results in which NovoGrad loses to AdamW and ties with SGD."""
    settings = Settings(task, "torch", RATES, seeds, STEPS, "cosine", quick=True)
    fresh = runner.begin(settings, ABOUT, 2, "novograd compare shapes.py --quick")
    rows = [row(run.optimizer, run.learning_rate, 0) for run in search(settings)]
    rows += [row(name, BEST[name], seed) for seed in range(1, seeds) for name in RATES]
    return json.loads(json.dumps(fresh | {"status": "finished", "runs": rows}))


def failed(one, error="ValueError: no", traceback="Traceback\nValueError: no\n"):
    fields = ("optimizer", "learning_rate", "seed")
    ended = {"status": "failed", "error": error, "traceback": traceback}
    return {name: one[name] for name in fields} | ended | {"loss": [], "evaluations": []}


def draw_pictures(output):
    """Writes pictures of the first seed of all optimizers."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (2, 12, 20), dtype=np.uint8)
    (output / runner.PICTURES).mkdir()
    for optimizer, rate in BEST.items():
        name = runner.picture_of({"optimizer": optimizer, "learning_rate": rate})
        path = output / runner.PICTURES / name
        arrays = {"images": random.random((2, 12, 20)), "truth": truth, "predicted": truth[::-1]}
        np.savez(path, **arrays, classes=("square", "ring"))


def written(results, output):
    report.write(analyse(results), output)
    return (output / report.PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with all sections: pictures, a run that diverged, and a run that failed."""
    output = tmp_path_factory.mktemp("full")
    results = made()
    diverged, broken = results["runs"][3], results["runs"][6]
    diverged.update(status="diverged", diverged_at=17)
    results["runs"][6] = failed(broken, f"ValueError: {HOSTILE}", "a line of it " * 30)
    results["command"] = f"novograd compare {HOSTILE}"
    draw_pictures(output)
    report.write(analyse(results), output)
    return output


# Content


def test_the_page_contains_the_numbers():
    page = render(analyse(made()), {})
    for text in (
        "<title>Label shapes",
        "AdamW has the best median: score 0.840 (0.830-0.850).",
        "AdamW is ahead of NovoGrad by 0.12 score.",
        "SGD, Nesterov and NovoGrad tie: their ranges over seeds overlap.",
        "0.720 (0.710-0.730)",
        "8,000",
        "betas=(0.9, 0.98)",
        "2.13.0",
        "novograd compare shapes.py --quick",
        "first tenth of each run",
        "Invented; it shows nothing.",
        protocol(analyse(made())),
    ):
        assert text in page, text


def test_losses_of_novograd_are_tagged_behind():
    page = render(analyse(made()), {})
    assert '<span class="tag behind">behind</span> AdamW is ahead of NovoGrad' in page
    assert page.count('class="tag ahead"') == 1  # AdamW against SGD


def test_a_tie_of_the_leader_is_reported():
    results = made()
    for one in results["runs"]:
        one["metrics"]["score"] -= 0.11 * (one["optimizer"] == "adamw")
    assert "(0.720-0.740), but ties with SGD, Nesterov and with NovoGrad." in render(
        analyse(results), {}
    )


def test_every_figure_is_a_file_in_two_formats(full):
    names = sorted(path.name for path in (full / report.FIGURES).iterdir())
    assert names == sorted(f"{n}.{kind}" for n in FIGURES + PICTURES for kind in ("png", "svg"))
    for path in (full / report.FIGURES).iterdir():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG\r\n")
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_ids_are_unique(full):
    page = (full / report.PAGE).read_text(encoding="utf-8")
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) > 100
    assert len(ids) == len(set(ids))


def test_classes_are_named(full):
    text = (full / report.FIGURES / "segmentation-adamw.svg").read_text(encoding="utf-8")
    assert all(name in text for name in ("image", "truth", "AdamW", "square", "ring"))


@pytest.mark.parametrize("kind", [".svg", ".png"])
def test_the_same_results_give_the_same_bytes(kind, full):
    draw = {".svg": lambda one, name: svg(one, name).encode(), ".png": lambda one, _: png(one)}
    drawn = {**segmentations(analyse(made()), full), "time": time(analyse(made()))}
    assert sorted(drawn) == [*sorted(PICTURES), "time"]
    for name, one in drawn.items():
        assert draw[kind](one, name) == (full / report.FIGURES / (name + kind)).read_bytes()


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
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") > 6


def test_report_without_a_finished_run(tmp_path):
    results = made()
    results["runs"] = [failed(one) for one in results["runs"]]
    page = written(results, tmp_path)
    assert "No run finished, so there is nothing to compare." in page
    assert "15 of 15 runs failed" in page
    assert "ValueError: no (15 runs)" in page
    assert "<svg" not in page
    assert "novograd compare shapes.py" in page


def test_report_without_runs(tmp_path):
    results = made() | {"runs": [], "status": "interrupted", "planned": 9}
    assert "Interrupted: 0 of 9 runs ended." in written(results, tmp_path)


def test_one_seed_ranks_nothing(tmp_path):
    page = written(made(seeds=1), tmp_path)
    assert "AdamW and NovoGrad are not ranked: at least two seeds are needed." in page
    assert "; there are too few seeds to rank all optimizers." in page
    assert "ahead of" not in page


def test_an_interrupted_comparison_shows_the_runs_that_ended(tmp_path):
    results = made() | {"status": "interrupted", "planned": 15}
    results["runs"] = [one for one in results["runs"] if one["optimizer"] == "novograd"][:2]
    page = written(results, tmp_path)
    assert "Interrupted: 2 of 15 runs ended." in page
    assert page.count("<figure>") == len(FIGURES)


def test_missing_pictures_are_left_out(full, tmp_path):
    shutil.copytree(full / runner.PICTURES, tmp_path / runner.PICTURES)
    next((tmp_path / runner.PICTURES).glob("sgd*")).unlink()
    assert list(segmentations(analyse(made()), tmp_path)) == PICTURES[:2]


def test_a_rate_at_which_runs_diverged_is_marked():
    results = made()
    assert ">diverged<" not in svg(learning_rates(analyse(results)), "x")
    diverged = results["runs"][3]
    diverged.update(status="diverged", diverged_at=17)
    assert ">diverged<" in svg(learning_rates(analyse(results)), "x")
    where = f"learning rate {diverged['learning_rate']:g}, seed 0: at step 17"
    assert where in render(analyse(results), {})


def test_all_optimizers_fit(tmp_path):
    results = made()
    runs = [one for one in results["runs"] if one["optimizer"] == "adamw"]
    results["runs"] = [{**one, "optimizer": name} for name in OPTIMIZERS for one in runs]
    results["optimizers"] = {name: one.title for name, one in OPTIMIZERS.items()}
    results["settings"]["learning_rates"] = dict.fromkeys(OPTIMIZERS, RATES["adamw"])
    written(results, tmp_path)
    text = (tmp_path / report.FIGURES / "learning-rates.svg").read_text(encoding="utf-8")
    assert all(f">{one.title}<" in text for one in OPTIMIZERS.values())


def test_a_single_optimizer_is_the_leader_without_ties():
    results = made()
    results["runs"] = [one for one in results["runs"] if one["optimizer"] == "sgd"]
    assert "SGD, Nesterov has the best median: score 0.730 (0.720-0.740)." in render(
        analyse(results), {}
    )


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
    figures = opened.locator("figure > svg")
    assert figures.count() == len(FIGURES) + len(PICTURES)
    for figure in figures.all():
        assert figure.is_visible()
        box = figure.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
        assert figure.get_attribute("aria-label")
    assert opened.locator("figure image").count() == 2 * 3 * len(PICTURES)


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_a_narrow_screen(opened, width):
    opened.set_viewport_size({"width": width, "height": 740})
    for summary in opened.locator("summary").all():
        summary.click()  # shows the long line of the failure
    assert opened.evaluate("document.scrollingElement.scrollWidth") <= width
    for table in opened.locator(".scroll").all():
        assert table.bounding_box()["width"] <= width


@in_both_schemes
def test_text_is_readable(opened):
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
    assert HOSTILE in opened.locator("pre").last.inner_text()
    assert opened.locator("script, img").count() == 0


def test_structure(opened):
    assert opened.locator("h1").all_inner_texts() == ["Label shapes"]
    assert opened.locator("th:not([scope])").count() == 0
    assert opened.evaluate("document.documentElement.lang") == "en"
    assert opened.locator("h2").first.inner_text() == "Verdict"
