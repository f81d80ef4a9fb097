"""The records of variants, the NumPy versions of the peers, and the sizes of steps."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner

from novograd import cli, reference
from novograd.conformance.cases import CaseHyperparameters
from novograd.conformance.peers import PEERS, Gradient, State
from novograd.layers import Rows, Split, Stacked, Whole
from novograd.step_sizes import StepSizes, rate_factors, step_sizes
from novograd.variants import (
    BY_NAME,
    DOCUMENTED,
    LIBRARIES,
    RULES,
    VARIANTS,
    Variant,
    VariantName,
    as_config,
    from_config,
    get,
)

# These peers cannot be installed here: apex needs a GPU and its own build, OpenSeq2Seq needs
# TensorFlow 1 and Horovod, and flashlight is C++. The numbers are computed by hand from their
# sources, for gradients (3, 4) and then (0, 10), weights (1, 2), lr 0.5, beta1 0.5, beta2 0.75,
# epsilon 1, decay 0.1, and their own averaging: on in apex, always in flashlight, off in
# OpenSeq2Seq.
#
# apex, L2: gn = 5, then sqrt(0.75*25 + 0.25*100) = sqrt(43.75). Corrections 1 - 0.5^t = 0.5, 0.75
#   and sqrt(1 - 0.75^t) = 0.5, sqrt(0.4375), so that denom = 5/0.5 + 1 = 11 and 10 + 1 = 11.
#   m_1 = (1.5, 2), w_1 = (1, 2) - 0.5*((3, 4)/11 + 0.1*(1, 2)) = (0.8136363636, 1.7181818182);
#   m_2 = (0.75, 6), w_2 = w_1 - 0.5*((1, 8)/11 + 0.1*w_1).
# apex, inside, L2: m_1 = 0.5*((3, 4)/11 + (0.1, 0.2)) = (0.1863636364, 0.2818181818), the same w_1;
#   m_2 = 0.5*m_1 + 0.5*((0, 10)/11 + 0.1*w_1) = (0.1338636364, 0.6813636364),
#   w_2 = w_1 - 0.5*m_2/0.75.
# apex, L-inf: gn = 4, then 0.75*4 + 0.25*10 = 5.5; denom = 4/0.5 + 1 = 9, then
#   5.5/0.6614378278 + 1 = 9.3152184062. w_1 = (1, 2) - 0.5*((3, 4)/9 + 0.1*(1, 2)) =
#   (0.7833333333, 1.6777777778), w_2 = w_1 - 0.5*((1, 8)/9.3152184062 + 0.1*w_1).
# apex, inside, L-inf: m_1 = (0.2166666667, 0.3222222222), the same w_1;
#   m_2 = 0.5*m_1 + 0.5*((0, 10)/9.3152184062 + 0.1*w_1), w_2 = w_1 - 0.5*m_2/0.75.
# OpenSeq2Seq: v = 25, then 100. m_1 = (3, 4)/sqrt(26) + (0.1, 0.2) = (0.6883484054, 0.9844645406),
#   w_1 = (0.6558257973, 1.5077677297); m_2 = 0.5*m_1 + (0, 10)/sqrt(101) + 0.1*w_1.
# flashlight: v = 0.25*25 = 6.25, then 0.75*6.25 + 0.25*100 = 29.6875; denom = 3.5, then
#   5.4486236794 + 1. m_1 = 0.5*((3, 4)/3.5 + (0.1, 0.2)) = (0.4785714286, 0.6714285714),
#   w_1 = (0.7607142857, 1.6642857143); m_2 = 0.5*m_1 + 0.5*((0, 10)/6.4486236794 + 0.1*w_1).
BY_HAND = {
    "apex": ((0.7275, 1.2686363636), (0.75, 6), 43.75),
    "apex-inside": ((0.7243939394, 1.2639393939), (0.1338636364, 0.6813636364), 43.75),
    "apex-inf": ((0.6904910599, 1.1644840349), (0.75, 6), 5.5),
    "apex-inside-inf": ((0.685, 1.1566070661), (0.1475, 0.7817560675), 5.5),
    "openseq2seq": ((0.4509474061, 0.6887446130), (0.4097567824, 1.6380462335), 100),
    "flashlight": ((0.6220535714, 1.0671418051), (0.2773214286, 1.1942878184), 29.6875),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_two_steps_equal_those_computed_by_hand(name):
    hyper = CaseHyperparameters(0.5, 0.5, 0.75, 1.0, 0.1, get(name).grad_averaging)
    state = State(np.array([1.0, 2.0]), np.zeros(2), 0.0, 0.0)
    for t, gradient in enumerate(([3.0, 4.0], [0.0, 10.0]), start=1):
        state = PEERS[name](state, Gradient(np.array(gradient), t, 1.0), hyper)
    for stored, expected in zip(state, BY_HAND[name], strict=False):
        np.testing.assert_allclose(stored, expected, rtol=1e-9)


# -- the records ----------------------------------------------------------------------------------


def test_every_variant_has_a_numpy_version():
    assert {name: variant.name for name, variant in BY_NAME.items()} == {x: x for x in BY_NAME}
    assert {*VARIANTS} == {DOCUMENTED.name, *PEERS}


def test_the_type_of_names_lists_every_variant():
    assert get_args(VariantName) == (*BY_NAME,)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_has_a_rule_of_a_variant_and_other_defaults(name):
    rule, library = get(RULES[name]), get(name)
    defaults = {field: getattr(rule, field) for field in ("lr", "beta1", "beta2")}
    words = {"name": rule.name, "source": rule.source, "difference": rule.difference}
    assert replace(library, **defaults, **words) == rule
    assert from_config(json.loads(json.dumps(as_config(library)))) == name


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("MONAI", "monai"),
        ("pytorch_optimizer", "pytorch-optimizer"),
        ("optx", "optax"),
        ("tensorflow-addons", "tfa"),
        ("jettify", "torch-optimizer"),
        ("QuartzNet", "dle"),
        ("clara", "clara-train"),
    ],
)
def test_an_unknown_name_suggests_the_most_similar(wrong, meant):
    with pytest.raises(ValueError, match=f"got '{wrong}'; did you mean '{meant}'\\?$"):
        get(wrong)


@pytest.mark.parametrize("wrong", ["adam", "novograd", "a", ""])
def test_a_name_that_resembles_none_gets_no_suggestion(wrong):
    with pytest.raises(ValueError, match=f"^variant must be one of documented, .* got '{wrong}'$"):
        get(wrong)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("start", "first", ValueError),
        ("norm", "l1", ValueError),
        ("epsilon", None, ValueError),
        ("rate", "Moment", ValueError),
        ("decay", True, ValueError),
        ("normalises", "gradients", ValueError),
        ("bias_correction", "adam", ValueError),
        ("averages", 1, TypeError),
        ("averages_first", None, TypeError),
        ("doubles_first", "no", TypeError),
        ("amsgrad", np.True_, TypeError),
        ("grad_averaging", 0, TypeError),
        ("lr", -0.1, ValueError),
        ("lr", "0.1", TypeError),
        ("nesterov", None, TypeError),
        ("layers", "rows", TypeError),
        ("layers", Rows, TypeError),
        ("clip", 0, ValueError),
        ("clip", -1.0, ValueError),
        ("clip", float("nan"), ValueError),
        ("clip", float("inf"), ValueError),
        ("clip", "1", TypeError),
        ("clip", True, TypeError),
        ("eps", float("nan"), ValueError),
        ("eps", None, TypeError),
        ("beta1", 1.0, ValueError),
        ("beta2", -1e-9, ValueError),
        ("beta2", True, TypeError),
    ],
)
def test_a_record_checks_its_fields(name, value, error):
    with pytest.raises(error, match=f"^{name} must be "):
        replace(DOCUMENTED, **{name: value})


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_an_error_names_clip_its_value_and_what_is_allowed(clip):
    with pytest.raises(ValueError, match=f"^clip must be None or in \\(0, inf\\), got {clip}$"):
        replace(DOCUMENTED, clip=clip)


def test_a_rate_and_a_bias_correction_may_be_none():
    record = replace(get("apex"), lr=None, bias_correction=None)
    assert (record.lr, record.bias_correction) == (None, None)


@pytest.mark.parametrize("layers", [None, Whole(), Rows(0, "rms"), Stacked((0, 1)), Split((2,))])
def test_a_record_with_layers_is_plain_data_in_files(layers):
    mine = replace(DOCUMENTED, name="mine", layers=layers, clip=2.0, nesterov=True)
    assert from_config(json.loads(json.dumps(as_config(mine)))) == mine


def test_files_of_earlier_versions_lack_the_newest_fields():
    mine = replace(DOCUMENTED, name="mine", beta2=0.5)
    config = {k: x for k, x in as_config(mine).items() if k not in ("nesterov", "layers", "clip")}
    assert from_config(config) == mine
    old = Variant.__new__(Variant)  # as pickle makes it
    old.__dict__.update(config)
    assert old == mine


def test_a_record_needs_names_and_is_frozen():
    with pytest.raises(TypeError, match="name"):
        Variant(source="", difference="")
    with pytest.raises(AttributeError, match="beta1"):
        DOCUMENTED.beta1 = 0.5


# -- the sizes of steps ---------------------------------------------------------------------------


def measured(name, **given):
    """Returns the size of the first step, and of one so late that the first has no effect on it."""
    variant, lr = get(name), 0.5
    betas = (given.get("beta1", variant.beta1), given.get("beta2", variant.beta2))
    averaging = given.get("grad_averaging", variant.grad_averaging)
    hyper = CaseHyperparameters(lr, *betas, epsilon=1e-300, grad_averaging=averaging)
    step = documented_step if name == DOCUMENTED.name else PEERS[name]
    # With one element, all kinds of norm are equal. The sign of the step is checked too.
    state, sizes = State(np.zeros(1), np.zeros(1), 0.0, 0.0), []
    for t in range(1, int(20 / (1 - max(betas))) + 1):
        after = step(state, Gradient(np.array([-3.0]), t, 1.0), hyper)
        sizes.append((after.w - state.w).item() / lr)
        state = after
    return sizes[0], sizes[-1]


def documented_step(state, gradient, hyper):
    step = partial(reference.step, **vars(hyper))
    return State(*step(state.w, state.m, state.v, gradient.g), largest=0.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_step_sizes_equal_the_measured_ones(name):
    np.testing.assert_allclose(step_sizes(name), measured(name), rtol=1e-6)
    for averaging in (False, True)[: 1 if name == "optax" else 2]:  # optax has no averaging
        given = {"beta1": 0.8, "beta2": 0.9, "grad_averaging": averaging}
        np.testing.assert_allclose(step_sizes(name, **given), measured(name, **given), rtol=1e-6)


def test_a_limit_shortens_the_steps():
    mine = replace(get("flashlight"), clip=0.5, grad_averaging=False)
    assert step_sizes(mine, beta1=0.5) == StepSizes(0.5, 1.0)


def test_rate_factors_compare_with_the_documented_rule():
    theirs = step_sizes("apex")
    np.testing.assert_allclose(rate_factors("apex"), (theirs.first, theirs.last / 20))
    given = {"beta1": 0.8, "grad_averaging": True}
    np.testing.assert_allclose(rate_factors("nvidia", **given), (0.2, 1 / 20))


def test_step_sizes_accept_a_record():
    mine = replace(get("nvidia"), name="mine", start="never", norm="inf", beta2=0.75)
    np.testing.assert_allclose(step_sizes(mine), (4.0, 20.0))
    assert step_sizes(replace(mine, averages=False)) == StepSizes(1.0, step_sizes(mine).last)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"beta1": 1.0}, ValueError),
        ({"beta2": "0.5"}, TypeError),
        ({"grad_averaging": 1}, TypeError),
        ({"variant": "adam"}, ValueError),
    ],
)
def test_rate_factors_check_their_arguments(given, error):
    with pytest.raises(error, match=f"^{next(iter(given))} must be "):
        rate_factors(**{"variant": "nvidia"} | given)


# -- the command ----------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(cli.app, ["variants", *arguments], env={"COLUMNS": "80"})


def test_the_command_shows_every_variant_in_one_line():
    result = command()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0].removesuffix(",") for line in lines if line]
    assert names == ["variant", *VARIANTS, "library", *LIBRARIES]
    cells = {line.split()[0].removesuffix(","): line.split()[1:] for line in lines if line}
    assert cells["apex"] == ["0.001", "0.9", "0.999", "1e-08", "yes", "0.0316", "1"]
    assert cells["optax"] == ["-", "0.9", "0.25", "1e-06", "no", "1", "10"]
    assert cells["monai"] == ["nvidia", "0.001", "0.9", "0.98", "1e-08", "no", "1", "10"]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_command_shows_one_variant_with_its_source(name):
    result = command(name)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert words.endswith(f"{get(name).difference} {get(name).source}")
    assert f" later {name}" in words


def test_the_command_suggests_a_name():
    result = command("monay")
    assert result.exit_code == 2
    assert "did you mean 'monai'?" in " ".join(result.output.split())


def test_the_command_prints_json():
    result = command("--json")
    assert result.exit_code == 0, result.output
    found = {record["name"]: record for record in json.loads(result.output)}
    sizes = {name: StepSizes(**record.pop("step_sizes")) for name, record in found.items()}
    assert {name: from_config(record) for name, record in found.items()} == BY_NAME
    assert sizes == {name: step_sizes(name) for name in BY_NAME}
    assert [one["name"] for one in json.loads(command("--json", "dle").output)] == ["dle"]


def test_the_command_refuses_an_unknown_option():
    assert command("--format").exit_code == 2


def test_the_page_shows_the_sizes_of_steps():
    page = (Path(__file__).parents[1] / "docs" / "variants.md").read_text(encoding="utf-8")
    for name in BY_NAME:
        numbers = (*step_sizes(name), *rate_factors(name))
        assert f"| `{name}` | {' | '.join(f'{x:.3g}' for x in numbers)} |" in page, name
