"""Every published NovoGrad by name, and ours, as data only: ``novograd.rule`` computes with it.

The documented rule is ``DOCUMENTED``; every other variant lists its differences from it. Choose a
variant by its name, as in ``NovoGrad(..., variant="optax")``, or pass a ``Variant`` of your own::

    from dataclasses import replace
    mine = replace(get("nvidia"), name="mine", decay="decoupled")

``VARIANTS`` has one record for each rule. Several libraries have the same rule with other defaults.
``LIBRARIES`` has a record for each of these, so that ``variant="monai"`` also has MONAI's defaults.
``BY_NAME`` has both. ``source`` names the code that was read; docs/variants.md lists the libraries
that the variants are compared with.
"""

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from novograd import layers
from novograd.hyperparameters import check_flag, check_limit, check_number
from novograd.layers import KINDS, Kind, Rows

VariantName = Literal[
    "documented",
    "nvidia",
    "nvidia-amsgrad",
    "nvidia-decoupled",
    "optax",
    "tfa",
    "apex",
    "apex-inf",
    "apex-inside",
    "apex-inside-inf",
    "openseq2seq",
    "flashlight",
    "pytorch-optimizer",
    "pytorch-optimizer-3",
    "rows",
    "clara-train",
    "dle",
    "monai",
    "nemo",
    "timm",
    "torch-optimizer",
]
"""The names of all variants, for type checkers and editors."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of NovoGrad: its differences from the documented rule, and its defaults.

    ``t`` is the number of the step, from 1. If a variant counts steps, each parameter has its own
    count in PyTorch, and all parameters share one count in JAX and Keras.

    Attributes:
        name: The name by which it is chosen.
        source: Where it is published, or measured.
        difference: How it differs from the documented rule, in a line.
        start: When ``v`` becomes ``|g|^2`` without averaging: while ``v`` is exactly 0 ("zero"), in
            the first step ("step"), or never ("never"), so that ``v`` is averaged from 0.
        averages: Whether ``v`` is an average at all. If not, beta2 has no effect.
        norm: The norm of a layer, "l2" or "inf". With "inf", ``v`` averages the norm itself, not
            its square.
        epsilon: Whether epsilon is added to ``v`` ("inside" the root) or to its root ("outside").
        rate: Whether the learning rate is in the momentum buffer ("moment") or multiplies the
            buffer in the update of the weights ("update").
        decay: Whether weight decay is added to the momentum buffer ("moment"), or the weights are
            multiplied by ``1 - lr*weight_decay`` ("decoupled").
        normalises: What is divided by the norm: the "gradient", before it is added to the momentum
            buffer, or the momentum buffer ("moment"), to which gradients are added as they are.
        averages_first: Whether ``grad_averaging`` also applies to the first step.
        doubles_first: Whether the first gradient is added to the momentum buffer twice.
        bias_correction: None; "rate": the learning rate is multiplied by
            ``sqrt(1 - beta2^t)/(1 - beta1^t)``; or "moments": the momentum buffer is divided by
            ``1 - beta1^t``, and the norm by ``sqrt(1 - beta2^t)``.
        amsgrad: Whether the norm is computed from the largest ``v`` so far.
        nesterov: Default of ``nesterov``, Nesterov momentum.
        layers: Default of ``layers``, which weights share one ``v``: a kind of ``novograd.layers``,
            or None for whole parameters.
        clip: The largest norm of a normalised gradient, in units of its expected norm; None: there
            is no limit. A layer's gradient is divided by at least ``|g|/clip``. ``v`` is the same
            with and without a limit. (Shazeer & Stern, "Adafactor", 2018, section 6, clip the
            update of a parameter in the same way.)
        lr: Default learning rate; None if there is no default.
        beta1: Default decay rate of the momentum buffer.
        beta2: Default decay rate of ``v``.
        eps: Default epsilon.
        grad_averaging: Default of ``grad_averaging``, which multiplies what is added to the
            momentum buffer by ``1 - beta1``.

    Example:
        >>> get("optax").beta2, get("optax").epsilon
        (0.25, 'outside')
    """

    name: str
    source: str
    difference: str
    start: Literal["zero", "step", "never"] = "zero"
    averages: bool = True
    norm: Literal["l2", "inf"] = "l2"
    epsilon: Literal["inside", "outside"] = "inside"
    rate: Literal["moment", "update"] = "moment"
    decay: Literal["moment", "decoupled"] = "moment"
    normalises: Literal["gradient", "moment"] = "gradient"
    averages_first: bool = True
    doubles_first: bool = False
    bias_correction: Literal["rate", "moments"] | None = None
    amsgrad: bool = False
    nesterov: bool = False
    layers: Kind = None
    clip: float | None = None
    lr: float | None = 0.01
    beta1: float = 0.95
    beta2: float = 0.98
    eps: float = 1e-8
    grad_averaging: bool = False

    def __post_init__(self) -> None:
        """Checks the fields, and raises TypeError or ValueError."""
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            allowed = _literals(kind)
            if allowed and value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
            if kind is bool:
                check_flag(name, value)
        if self.lr is not None:
            check_number("lr", self.lr)
        if not isinstance(self.layers, Kind):
            kinds = ", ".join(KINDS)
            raise TypeError(f"layers must be {kinds} or None, got {self.layers!r}")
        if self.clip is not None:
            check_limit("clip", self.clip)
        check_number("eps", self.eps)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), below=1)

    @property
    def counts(self) -> bool:
        """Whether a step depends on the number of steps before it.

        Example:
            >>> get("documented").counts, get("apex").counts
            (False, True)
        """
        return (
            self.start == "step"
            or self.bias_correction is not None
            or self.doubles_first
            or not self.averages_first
        )


def _literals(kind: Any) -> tuple[Any, ...]:
    """Returns the values that a type hint lists with ``Literal``; empty if it lists none."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    kinds = get_args(kind)
    literals = [one for one in kinds if get_origin(one) is Literal]
    return (*get_args(literals[0]), None) if literals else ()


DOCUMENTED = Variant(
    name="documented",
    source="NVIDIA Clara Train 3.1, ai4med.libs.optimizers.NovoGrad",
    difference="the rule of this package: epsilon inside the root, learning rate in the momentum "
    "buffer",
)

_NVIDIA = {"epsilon": "outside", "rate": "update", "lr": 1e-3}
_APEX = {
    "source": "NVIDIA/apex@6424da3, apex.optimizers.FusedNovoGrad, multi_tensor_novograd.cu",
    "epsilon": "outside",
    "rate": "update",
    "start": "step",
    "bias_correction": "moments",
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "grad_averaging": True,
}
_APEX_INSIDE = (
    "as apex with reg_inside_moment=True: normalised gradients and decay in the momentum buffer"
)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        DOCUMENTED,
        Variant(
            name="nvidia",
            source="DeepLearningExamples (Jasper, QuartzNet), MONAI, NeMo, timm, torch-optimizer; "
            "the names of these libraries choose this rule with their defaults",
            difference="epsilon outside the root, learning rate in the update",
            **_NVIDIA,
        ),
        Variant(
            name="nvidia-amsgrad",
            source="the same with amsgrad=True",
            difference="as nvidia, but the norm is computed from the largest v so far",
            amsgrad=True,
            **_NVIDIA,
        ),
        Variant(
            name="nvidia-decoupled",
            source="timm 1.0.31, NvNovoGrad(decoupled_decay=True), 'novogradw'",
            difference="as nvidia, but with decoupled weight decay",
            decay="decoupled",
            **_NVIDIA,
        ),
        Variant(
            name="optax",
            source="optax 0.2.8, optax.novograd with eps_root=0",
            difference="as nvidia, but a count of steps tells which step is the first",
            start="step",
            epsilon="outside",
            rate="update",
            lr=None,
            beta1=0.9,
            beta2=0.25,
            eps=1e-6,
        ),
        Variant(
            name="tfa",
            source="tensorflow-addons 0.23.0, tfa.optimizers.NovoGrad",
            difference="epsilon outside the root; a count of steps tells which step is the first, "
            "and its gradient is not averaged",
            start="step",
            epsilon="outside",
            averages_first=False,
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            eps=1e-7,
        ),
        Variant(
            name="apex",
            difference="momentum buffer of the gradients themselves, divided by the norm in the "
            "update; both with bias correction; decoupled decay; averaged",
            decay="decoupled",
            normalises="moment",
            **_APEX,
        ),
        Variant(
            name="apex-inf",
            difference="as apex with norm_type=0: the norm of a layer is its largest |g|",
            norm="inf",
            decay="decoupled",
            normalises="moment",
            **_APEX,
        ),
        Variant(name="apex-inside", difference=_APEX_INSIDE, **_APEX),
        Variant(
            name="apex-inside-inf",
            difference=f"{_APEX_INSIDE}; the norm of a layer is its largest |g|",
            norm="inf",
            **_APEX,
        ),
        Variant(
            name="openseq2seq",
            source="OpenSeq2Seq, open_seq2seq/optimizers/novograd.py, @8681d38",
            difference="learning rate in the update; v is never stored, so beta2 has no effect",
            averages=False,
            rate="update",
            lr=1.0,
        ),
        Variant(
            name="flashlight",
            source="flashlight, fl/optim/NovogradOptimizer.cpp, @f5f717f",
            difference="v is averaged from 0; epsilon outside the root, learning rate in the "
            "update; always averaged",
            start="never",
            grad_averaging=True,
            epsilon="outside",
            rate="update",
            lr=None,
        ),
        Variant(
            name="pytorch-optimizer",
            source="pytorch-optimizer 3.11.0 to 4.1.0, NovoGrad",
            difference="as nvidia, but a parameter's own count tells which step is the first, and "
            "its gradient is not averaged",
            start="step",
            averages_first=False,
            **_NVIDIA,
        ),
        Variant(
            name="pytorch-optimizer-3",
            source="pytorch-optimizer 2.11.0 to 3.10.1, NovoGrad",
            difference="as nvidia, but the first gradient is added to the momentum buffer twice, "
            "and Adam's bias corrections multiply the learning rate",
            start="step",
            doubles_first=True,
            bias_correction="rate",
            **_NVIDIA,
        ),
        Variant(
            name="rows",
            source="this project, docs/layers.md",
            difference="each output unit is a layer, with steps as long as Adam's; Nesterov; no "
            "normalised gradient is longer than 2; epsilon outside the root, learning rate in the "
            "update, decoupled decay; averaged",
            layers=Rows(scale="rms"),
            nesterov=True,
            clip=2.0,
            epsilon="outside",
            rate="update",
            decay="decoupled",
            lr=1e-3,
            beta1=0.9,
            beta2=0.98,
            grad_averaging=True,
        ),
    )
}


# The rule of each library, where it is published, and the defaults that differ from the rule's.
_LIBRARIES: dict[str, tuple[str, str, dict[str, float]]] = {
    "clara-train": ("documented", DOCUMENTED.source, {"lr": 1.0}),
    "dle": (
        "nvidia",
        "DeepLearningExamples @729963dd, Jasper and QuartzNet, Novograd",
        {"beta2": 0.0},
    ),
    "monai": ("nvidia", "MONAI 1.6.1, monai.optimizers.Novograd", {"beta1": 0.9}),
    "nemo": ("nvidia", "NeMo 3.0.0, nemo.core.optim.Novograd with luc=False", {}),
    "timm": ("nvidia", "timm 1.0.31, timm.optim.NvNovoGrad, 'novograd'", {}),
    "torch-optimizer": ("nvidia", "torch-optimizer 0.3.0 (jettify), NovoGrad", {"beta2": 0.0}),
}

RULES: dict[str, str] = {name: rule for name, (rule, *_) in _LIBRARIES.items()}
"""For each library in ``LIBRARIES``, the variant in ``VARIANTS`` that has its rule."""

LIBRARIES: dict[str, Variant] = {
    name: replace(
        VARIANTS[rule],
        name=name,
        source=source,
        difference=f"the rule of {rule}, with the defaults of this library",
        **defaults,
    )
    for name, (rule, source, defaults) in _LIBRARIES.items()
}
"""Variants that have a rule of ``VARIANTS`` with the defaults of a library."""

BY_NAME: dict[str, Variant] = VARIANTS | LIBRARIES
"""All variants that have a name."""


def get(variant: str | Variant) -> Variant:
    """Returns a variant.

    Args:
        variant: Its name, one of ``VariantName``; or a ``Variant``.

    Raises:
        TypeError: If ``variant`` is neither.
        ValueError: If no variant has this name. The message suggests the most similar name.

    Example:
        >>> get("monai").beta1
        0.9
        >>> get("pytorch_optimiser")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: variant must be one of documented, ..., torch-optimizer, got \
'pytorch_optimiser'; did you mean 'pytorch-optimizer'?
    """
    if isinstance(variant, Variant):
        return variant
    if not isinstance(variant, str):
        raise TypeError(
            f"variant must be a name or a Variant, got {variant!r} of type {type(variant).__name__}"
        )
    if variant not in BY_NAME:
        near = _most_similar(variant)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"variant must be one of {', '.join(BY_NAME)}, got {variant!r}{hint}")
    return BY_NAME[variant]


def _most_similar(wrong: str) -> str | None:
    """Returns the name that resembles a wrong name, or whose source contains it; or None."""
    words = wrong.lower().replace("_", "-")
    near = difflib.get_close_matches(words, BY_NAME, n=1, cutoff=0.7)
    # Every source says NovoGrad. The names of libraries come last, and fit best.
    published = [
        name
        for name, variant in reversed(BY_NAME.items())
        if len(words) > 3 and words in variant.source.lower().replace("novograd", "")
    ]
    return next(iter(near + published), None)


def as_config(variant: str | Variant) -> Any:
    """Returns a variant as plain data for files: its name, or all fields if it has no known name.

    Example:
        >>> as_config(get("tfa"))
        'tfa'
    """
    record = get(variant)
    if BY_NAME.get(record.name) == record:
        return record.name
    return as_dict(record)


def as_dict(variant: Variant) -> dict[str, Any]:
    """Returns all fields of a variant as plain data.

    Example:
        >>> as_dict(get("tfa"))["start"]
        'step'
    """
    values = {field.name: getattr(variant, field.name) for field in fields(variant)}
    return values | {"layers": layers.as_config(variant.layers)}


def from_config(config: Any) -> Any:
    """Undoes ``as_config``; returns anything but a dict unchanged.

    Example:
        >>> from dataclasses import replace
        >>> mine = replace(DOCUMENTED, name="mine", beta2=0.5)
        >>> from_config(as_config(mine)) == mine
        True
    """
    if not isinstance(config, dict):
        return config
    return Variant(**config | {"layers": layers.from_config(config.get("layers"))})
