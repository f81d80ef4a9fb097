"""One step of every variant in float64 NumPy, with the variable names of its source.

These functions are the oracles of the variants, as ``novograd.reference`` is the oracle of the
documented rule. They do not use ``novograd.rule`` or the options in ``novograd.variants``. The
tests compare them with the published packages that can be installed.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from novograd.conformance.cases import CaseHyperparameters


class State(NamedTuple):
    """The stored values of a layer; ``largest`` is the largest ``v`` so far, for amsgrad."""

    w: np.ndarray
    m: np.ndarray
    v: Any
    largest: Any


class Gradient(NamedTuple):
    """A layer's gradient in step ``t``, from 1; ``scale`` multiplies the normalised gradient.

    ``clip`` is the largest norm of the normalised gradient. No publication has it, and only the
    functions of the variants with a limit in the conformance table use it.
    """

    g: np.ndarray
    t: int
    scale: float
    clip: float = math.inf


def nvidia(
    x: State,
    grad: Gradient,
    h: CaseHyperparameters,
    *,
    amsgrad: bool = False,
    decoupled: bool = False,
) -> State:
    """The PyTorch class of Jasper, also in NeMo, MONAI and timm. timm added decoupled decay."""
    w, (g, _, scale, clip) = x.w, grad
    norm = np.sum(np.power(g, 2))
    exp_avg_sq = norm if x.v == 0 else h.beta2 * x.v + (1 - h.beta2) * norm
    max_exp_avg_sq = max(x.largest, exp_avg_sq)
    used = max_exp_avg_sq if amsgrad else exp_avg_sq
    denom = np.sqrt(max(used, norm / clip**2)) + h.epsilon
    update = scale * g / denom
    if decoupled:
        w = w * (1 - h.learning_rate * h.weight_decay)
    else:
        update = update + h.weight_decay * w
    if h.grad_averaging:
        update = update * (1 - h.beta1)
    exp_avg = h.beta1 * x.m + update
    return State(w - h.learning_rate * exp_avg, exp_avg, exp_avg_sq, max_exp_avg_sq)


def optax(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """``optax.scale_by_novograd``, then the learning rate, without gradient averaging."""
    g, count_inc, scale, _ = grad
    added = np.linalg.norm(g) ** 2
    nu = added if count_inc == 1 else (1 - h.beta2) * added + h.beta2 * x.v
    mu_addition = scale * g / (np.sqrt(nu) + h.epsilon) + h.weight_decay * x.w
    mu = mu_addition if count_inc == 1 else h.beta1 * x.m + mu_addition
    return State(x.w - h.learning_rate * mu, mu, nu, 0.0)


def tfa(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """TensorFlow Addons, with ResourceApplyKerasMomentum, whose accumulator is ``-m``."""
    g, t, scale, _ = grad
    iterations = t - 1
    g_2 = np.sum(np.square(g))
    v = g_2 if iterations == 0 else x.v * h.beta2 + g_2 * (1 - h.beta2)
    g = scale * g / (np.sqrt(v) + h.epsilon) + h.weight_decay * x.w
    if h.grad_averaging and iterations != 0:
        g = g * (1 - h.beta1)
    accum = -x.m * h.beta1 - h.learning_rate * g
    return State(x.w + accum, -accum, v, 0.0)


def apex(
    x: State, grad: Gradient, h: CaseHyperparameters, *, inside: bool = False, largest: bool = False
) -> State:
    """FusedNovoGrad with bias corrections; ``v`` is a squared norm, or with ``largest`` a norm."""
    g, step, scale, clip = grad
    norm = np.max(np.abs(g), initial=0.0) if largest else np.linalg.norm(g)
    before = norm if step == 1 else x.v if largest else np.sqrt(x.v)
    if largest:
        blended = h.beta2 * before + (1 - h.beta2) * norm
    else:
        blended = np.sqrt(h.beta2 * before**2 + (1 - h.beta2) * norm**2)
    beta1_correction = 1 - h.beta1**step
    beta2_correction = np.sqrt(1 - h.beta2**step)
    denom = max(blended / beta2_correction, norm / clip) + h.epsilon
    beta3 = 1 - h.beta1 if h.grad_averaging else 1.0
    if inside:
        m = h.beta1 * x.m + beta3 * (scale * g / denom + h.weight_decay * x.w)
        w = x.w - h.learning_rate * m / beta1_correction
    else:
        m = h.beta1 * x.m + beta3 * g
        update = scale * (m / beta1_correction) / denom + h.weight_decay * x.w
        w = x.w - h.learning_rate * update
    return State(w, m, blended if largest else blended**2, 0.0)


def openseq2seq(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """OpenSeq2Seq in practice: the average is computed from a variable that is always 0."""
    g, _, scale, _ = grad
    ema = 0.0
    g_2 = np.sum(np.square(g))
    g_ema_new = g_2 if ema == 0 else ema * h.beta2 + g_2 * (1 - h.beta2)
    g = scale * g / np.sqrt(g_ema_new + h.epsilon)
    g = g + h.weight_decay * x.w
    if h.grad_averaging:
        g = g * (1 - h.beta1)
    accum = h.beta1 * x.m + g
    return State(x.w - h.learning_rate * accum, accum, g_2, 0.0)


def flashlight(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """Flashlight's NovogradOptimizer. It always averages gradients; here this is the default."""
    g, _, scale, _ = grad
    v = h.beta2 * x.v + (1 - h.beta2) * np.sum(g * g)
    share = 1 - h.beta1 if h.grad_averaging else 1.0
    velocity = h.beta1 * x.m + share * (scale * g / (np.sqrt(v) + h.epsilon) + h.weight_decay * x.w)
    return State(x.w - h.learning_rate * velocity, velocity, v, 0.0)


def pytorch_optimizer(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """pytorch-optimizer 3.11.0 or later: the first normalised gradient is not averaged."""
    g, t, scale, _ = grad
    grad_p2 = np.sum(np.power(g, 2))
    grads_ema = grad_p2 if t == 1 else x.v + (1 - h.beta2) * (grad_p2 - x.v)
    g = scale * g / (np.sqrt(grads_ema) + h.epsilon) + h.weight_decay * x.w
    averaged = g * (1 - h.beta1) if h.grad_averaging else g
    moments = g if t == 1 else h.beta1 * x.m + averaged
    return State(x.w - h.learning_rate * moments, moments, grads_ema, 0.0)


def pytorch_optimizer_3(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """pytorch-optimizer before 3.11.0: the first gradient initialises m and v, and updates them."""
    g, step, scale, _ = grad
    bias_correction1, bias_correction2_sq = 1 - h.beta1**step, np.sqrt(1 - h.beta2**step)
    step_size = h.learning_rate * bias_correction2_sq / bias_correction1
    grad_p2 = np.sum(np.power(g, 2))
    moments, grads_ema = x.m, x.v
    if step == 1:
        moments = scale * g / (np.sqrt(grad_p2) + h.epsilon) + h.weight_decay * x.w
        grads_ema = grad_p2
    grads_ema = h.beta2 * grads_ema + (1 - h.beta2) * grad_p2
    g = scale * g / (np.sqrt(grads_ema) + h.epsilon) + h.weight_decay * x.w
    if h.grad_averaging:
        g = g * (1 - h.beta1)
    moments = h.beta1 * moments + g
    return State(x.w - step_size * moments, moments, grads_ema, 0.0)


def rows(x: State, grad: Gradient, h: CaseHyperparameters) -> State:
    """This project's own variant; a layer is a row, and ``scale`` is the root of its length."""
    g, _, scale, clip = grad
    s = np.sum(g * g)
    v = s if x.v == 0 else h.beta2 * x.v + (1 - h.beta2) * s
    direction = scale * g / (max(np.sqrt(v), np.sqrt(s) / clip) + h.epsilon)
    if h.grad_averaging:
        direction = (1 - h.beta1) * direction
    m = h.beta1 * x.m + direction
    ahead = h.beta1 * m + direction if h.nesterov else m
    w = x.w - h.learning_rate * h.weight_decay * x.w - h.learning_rate * ahead
    return State(w, m, v, 0.0)


PEERS: Mapping[str, Callable[[State, Gradient, CaseHyperparameters], State]] = {
    "nvidia": nvidia,
    "nvidia-amsgrad": partial(nvidia, amsgrad=True),
    "nvidia-decoupled": partial(nvidia, decoupled=True),
    "optax": optax,
    "tfa": tfa,
    "apex": apex,
    "apex-inf": partial(apex, largest=True),
    "apex-inside": partial(apex, inside=True),
    "apex-inside-inf": partial(apex, inside=True, largest=True),
    "openseq2seq": openseq2seq,
    "flashlight": flashlight,
    "pytorch-optimizer": pytorch_optimizer,
    "pytorch-optimizer-3": pytorch_optimizer_3,
    "rows": rows,
}
