"""Every published NovoGrad by name: data only. What the switches do is in ``novograd.rule``.

The documented rule is ``DOCUMENTED``; all others say what they do differently. A variant is chosen
by its name, as in ``NovoGrad(..., variant="optax")``, or given as a record, so that anybody can
make one of their own::

    from dataclasses import replace
    mine = replace(get("nvidia"), name="mine", decay="decoupled")

"Source" names the code that was read; README's table of the tests says what was run against it.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from novograd.hyperparameters import check_flag, check_number


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How one NovoGrad differs from the documented rule, and the defaults with which it comes.

    ``t`` is the number of the step, from 1; where a variant counts steps, each weight of torch has
    its own count, and JAX and Keras have one for all weights.

    Attributes:
        name: The name by which it is chosen.
        source: Where it is published.
        difference: How it differs from the documented rule, in a line.
        start: When ``v`` has no history, so that it becomes ``|g|^2``: while it is exactly 0
            ("zero"), in the first step ("step"), or never, ``v`` being averaged from 0 ("never").
        averages: Whether ``v`` is an average at all. If not, beta2 has no effect.
        norm: The norm of a layer, "l2" or "inf"; of the latter ``v`` averages the norm itself, not
            its square.
        epsilon: Whether epsilon is added to ``v`` ("inside" the root) or to its root ("outside").
        rate: Whether the learning rate is in the "moment" or multiplies it in the "update".
        decay: Whether the weights decay in the "moment", or apart from it, as
            ``(1 - lr*weight_decay)*w`` ("decoupled").
        normalises: What is divided by the norm: each "gradient" as it enters the moment, or the
            "moment" of the gradients as they are.
        averages_first: Whether ``grad_averaging`` holds in the first step too.
        doubles_first: Whether the first gradient enters the moment twice: once as it is, and again.
        bias_correction: None; "rate": the learning rate is multiplied by
            ``sqrt(1 - beta2^t)/(1 - beta1^t)``; or "moments": the moment is divided by
            ``1 - beta1^t``, and the norm by ``sqrt(1 - beta2^t)``.
        amsgrad: Whether the largest ``v`` so far takes the place of ``v`` as the norm.
        lr: Default learning rate; None where it has to be given.
        beta1: Default decay rate of the moment.
        beta2: Default decay rate of ``v``.
        eps: Default epsilon.
        grad_averaging: Whether what enters the moment is multiplied by ``1 - beta1`` by default.

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
    lr: float | None = 0.01
    beta1: float = 0.95
    beta2: float = 0.98
    eps: float = 1e-8
    grad_averaging: bool = False

    def __post_init__(self) -> None:
        """Checks the fields; raises TypeError or ValueError."""
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            allowed = _literals(kind)
            if allowed and value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
            if kind is bool:
                check_flag(name, value)
        if self.lr is not None:
            check_number("lr", self.lr)
        check_number("eps", self.eps)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), below=1)

    @property
    def counts(self) -> bool:
        """Whether its step depends on how many steps there were.

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
    """Returns the values that a type hint allows, where it lists them."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    kinds = get_args(kind)
    literals = [one for one in kinds if get_origin(one) is Literal]
    return (*get_args(literals[0]), None) if literals else ()


DOCUMENTED = Variant(
    name="documented",
    source="NVIDIA Clara Train 3.1, ai4med.libs.optimizers.NovoGrad",
    difference="the rule of this package: epsilon inside the root, learning rate in the moment",
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
_APEX_INSIDE = "as apex with reg_inside_moment=True: normalised gradients and decay in the moment"

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        DOCUMENTED,
        Variant(
            name="nvidia",
            source="DeepLearningExamples (Jasper, QuartzNet), NeMo, timm, torch-optimizer; MONAI "
            "(beta1 0.9)",
            difference="epsilon outside the root, learning rate at the update",
            **_NVIDIA,
        ),
        Variant(
            name="nvidia-amsgrad",
            source="the same with amsgrad=True",
            difference="as nvidia, but the largest v so far is the norm",
            amsgrad=True,
            **_NVIDIA,
        ),
        Variant(
            name="nvidia-decoupled",
            source="timm 1.0.31, NvNovoGrad(decoupled_decay=True), 'novogradw'",
            difference="as nvidia, but weights decay apart from the moment",
            decay="decoupled",
            **_NVIDIA,
        ),
        Variant(
            name="optax",
            source="optax 0.2.8, optax.novograd with eps_root=0",
            difference="as nvidia, but the first step is told by the count of steps",
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
            difference="epsilon outside the root; the first step is told by the count, and is not "
            "averaged",
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
            difference="moment of the gradients themselves, divided by the norm at the update; "
            "both bias-corrected; decoupled decay; averaged",
            decay="decoupled",
            normalises="moment",
            **_APEX,
        ),
        Variant(
            name="apex-inf",
            difference="as apex with norm_type=0: the largest |g| of a layer is its norm",
            norm="inf",
            decay="decoupled",
            normalises="moment",
            **_APEX,
        ),
        Variant(name="apex-inside", difference=_APEX_INSIDE, **_APEX),
        Variant(
            name="apex-inside-inf",
            difference=f"{_APEX_INSIDE}; the largest |g| of a layer is its norm",
            norm="inf",
            **_APEX,
        ),
        Variant(
            name="openseq2seq",
            source="OpenSeq2Seq, open_seq2seq/optimizers/novograd.py, @8681d38",
            difference="learning rate at the update; v is never stored, so beta2 has no effect",
            averages=False,
            rate="update",
            lr=1.0,
        ),
        Variant(
            name="flashlight",
            source="flashlight, fl/optim/NovogradOptimizer.cpp, @f5f717f",
            difference="v is averaged from 0; epsilon outside the root, learning rate at the "
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
            difference="as nvidia, but the first step is a weight's first, and is not averaged",
            start="step",
            averages_first=False,
            **_NVIDIA,
        ),
        Variant(
            name="pytorch-optimizer-3",
            source="pytorch-optimizer 2.11.0 to 3.10.1, NovoGrad",
            difference="as nvidia, but the first gradient enters the moment twice, and Adam's bias "
            "corrections multiply the learning rate",
            start="step",
            doubles_first=True,
            bias_correction="rate",
            **_NVIDIA,
        ),
    )
}


def get(variant: str | Variant) -> Variant:
    """Returns a variant.

    Args:
        variant: Its name, or a record.

    Raises:
        TypeError: If it is neither.
        ValueError: If there is none of this name.

    Example:
        >>> get("nvidia").rate
        'update'
        >>> get("adam")
        Traceback (most recent call last):
            ...
        ValueError: variant must be one of documented, nvidia, nvidia-amsgrad, nvidia-decoupled, \
optax, tfa, apex, apex-inf, apex-inside, apex-inside-inf, openseq2seq, flashlight, \
pytorch-optimizer, pytorch-optimizer-3, got 'adam'
    """
    if isinstance(variant, Variant):
        return variant
    if not isinstance(variant, str):
        raise TypeError(
            f"variant must be a name or a Variant, got {variant!r} of type {type(variant).__name__}"
        )
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    return VARIANTS[variant]


def as_config(variant: str | Variant) -> Any:
    """Returns a variant as plain data, which files may hold: its name, or all fields.

    Example:
        >>> as_config(get("tfa"))
        'tfa'
    """
    record = get(variant)
    if VARIANTS.get(record.name) == record:
        return record.name
    return {field.name: getattr(record, field.name) for field in fields(record)}


def from_config(config: Any) -> Any:
    """Undoes ``as_config``; whatever is no dict is returned as it is.

    Example:
        >>> from dataclasses import replace
        >>> mine = replace(DOCUMENTED, name="mine", beta2=0.5)
        >>> from_config(as_config(mine)) == mine
        True
    """
    return Variant(**config) if isinstance(config, dict) else config
