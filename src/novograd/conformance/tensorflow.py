"""The adapters of ``novograd.tensorflow.NovoGrad``.

Hyperparameters that change from step to step are placeholders in sessions, callables in eager
execution, and variables in functions.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from novograd.conformance.adapters import Adapter, WeightState, compute_dtype, zero_second_moments
from novograd.conformance.cases import Case, CaseHyperparameters
from novograd.conformance.check import MismatchError
from novograd.tensorflow import NovoGrad

_CHANGING = ("learning_rate", "beta1", "beta2", "weight_decay")


class SessionAdapter(Adapter):
    """A v1 graph and Session, with resource variables. Saves with ``tf.compat.v1.train.Saver``."""

    use_resource = True

    def __init__(self, case: Case) -> None:
        """Builds the graph and initialises its variables."""
        self._case = case
        self._build()
        self._session.run(self._initializer)

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Runs the train operation for the weights that have a gradient."""
        present = tuple(g is not None for g in gradients)
        if present not in self._train_ops:
            with self._graph.as_default(), self._scope():
                self._train_ops[present] = self._apply(present)
        feed = {p: g for p, g in zip(self._gradients, gradients, strict=True) if g is not None}
        feed |= {p: getattr(hyper, name) for name, p in self._changing.items()}
        self._session.run(self._train_ops[present], feed)

    def layers(self) -> list[WeightState]:
        """Reads the variables and slots."""
        return self._read(self._weights, _slots(self._optimizer, self._weights))

    def reload(self) -> None:
        """Saves, builds a new graph and session, and restores the values there."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "model"))
            with self._graph.as_default():
                self._saver.save(self._session, path)
            self._session.close()
            self._build()
            with self._graph.as_default():
                self._saver.restore(self._session, path)

    def _build(self) -> None:
        case = self._case
        self._graph = tf.Graph()
        with self._graph.as_default(), self._scope():
            self._weights = [
                tf.compat.v1.get_variable(
                    f"w{i}", initializer=tf.constant(w), use_resource=self.use_resource
                )
                for i, w in enumerate(case.weights())
            ]
            self._gradients = [
                tf.compat.v1.placeholder(w.dtype.base_dtype, w.shape) for w in self._weights
            ]
            dtype = compute_dtype(case.dtype)
            names = _CHANGING if case.schedule else ()
            self._changing = {name: tf.compat.v1.placeholder(dtype, []) for name in names}
            self._optimizer = _optimizer(case, **self._changing)
            everything = (True,) * len(self._weights)
            self._train_ops: dict[tuple[bool, ...], Any] = {everything: self._apply(everything)}
            self._initializer = tf.compat.v1.global_variables_initializer()
            self._saver = tf.compat.v1.train.Saver()
        self._session = self._new_session()

    def _new_session(self) -> tf.compat.v1.Session:
        return tf.compat.v1.Session(graph=self._graph)

    def _scope(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _read(self, weights: list[Any], slots: list[Any]) -> list[WeightState]:
        weights, state = self._session.run((weights, slots))
        return _layers(weights, state, self._case)

    def _apply(self, present: tuple[bool, ...]) -> Any:
        gradients = [g if p else None for g, p in zip(self._gradients, present, strict=True)]
        return self._optimizer.apply_gradients(zip(gradients, self._weights, strict=True))


class ReferenceVariableAdapter(SessionAdapter):
    """A v1 graph and Session with reference variables (``use_resource=False``)."""

    use_resource = False


class MirroredSessionAdapter(SessionAdapter):
    """``MirroredStrategy`` over two CPU devices in a v1 graph and Session."""

    def __init__(self, case: Case) -> None:
        """Makes a strategy with two replicas, on the logical CPU devices of ``prepare``."""
        self._strategy = _mirrored()
        super().__init__(case)

    def _read(self, weights: list[Any], slots: list[Any]) -> list[WeightState]:
        return _agreed(self._strategy, super()._read, weights, slots)

    def _scope(self) -> AbstractContextManager[Any]:
        return self._strategy.scope()

    def _new_session(self) -> tf.compat.v1.Session:
        config = tf.compat.v1.ConfigProto(device_count={"CPU": 2})
        return tf.compat.v1.Session(graph=self._graph, config=config)

    def _apply(self, present: tuple[bool, ...]) -> Any:
        def replica_step() -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradients = [
                tf.stack([_share(g, i) for i in range(2)])[replica] if present[j] else None
                for j, g in enumerate(self._gradients)
            ]
            pairs = [(g, self._weights[i]) for i, g in enumerate(gradients)]
            return self._optimizer.apply_gradients(pairs)

        return self._strategy.group(self._strategy.extended.call_for_each_replica(replica_step))


class EagerExecutionAdapter(Adapter):
    """Eager execution. Saves with ``tf.train.Checkpoint``, and restores before the first step."""

    def __init__(self, case: Case) -> None:
        """Makes the variables and the optimizer."""
        self._case = case
        self._build(case.weights())

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Applies the gradients."""
        self._set(hyper)
        self._apply([None if g is None else tf.constant(g) for g in gradients])

    def layers(self) -> list[WeightState]:
        """Reads the variables and slots."""
        return self._read(self._weights, _slots(self._optimizer, self._weights))

    def reload(self) -> None:
        """Saves, makes new variables with other values and a new optimizer, and restores."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._checkpoint().save(str(Path(folder, "checkpoint")))
            self._build([np.ones_like(w) for w in self._case.weights()])
            self._restore(path)

    def _restore(self, path: str) -> None:
        self._checkpoint().restore(path).assert_existing_objects_matched()

    def _build(self, weights: list[np.ndarray]) -> None:
        self._weights = _variables(weights)
        self._now = self._case.hyperparameters(0)
        names = _CHANGING if self._case.schedule else ()
        self._optimizer = _optimizer(
            self._case, **{name: lambda name=name: getattr(self._now, name) for name in names}
        )

    def _read(self, weights: list[Any], slots: list[Any]) -> list[WeightState]:
        state = [None if slot is None else slot.numpy() for slot in slots]
        return _layers([w.numpy() for w in weights], state, self._case)

    def _checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(optimizer=self._optimizer, weights=self._weights)

    def _set(self, hyper: CaseHyperparameters) -> None:
        self._now = hyper

    def _apply(self, gradients: list[Any]) -> None:
        # AutoGraph of older TensorFlow releases does not support zip(strict=True).
        self._optimizer.apply_gradients([(g, self._weights[i]) for i, g in enumerate(gradients)])


class FunctionAdapter(EagerExecutionAdapter):
    """``tf.function``. Hyperparameters that change are variables."""

    jit_compile = False

    def _build(self, weights: list[np.ndarray]) -> None:
        self._weights = _variables(weights)
        dtype = compute_dtype(self._case.dtype)
        names = _CHANGING if self._case.schedule else ()
        self._changing = {name: tf.Variable(tf.zeros((), dtype), trainable=False) for name in names}
        self._optimizer = _optimizer(self._case, **self._changing)
        self._functions: dict[tuple[bool, ...], Any] = {}

    def _set(self, hyper: CaseHyperparameters) -> None:
        for name, variable in self._changing.items():
            variable.assign(getattr(hyper, name))

    def _apply(self, gradients: list[Any]) -> None:
        # Each set of weights with a gradient has its own function: the first gradient of a weight
        # creates slots, and a function may create variables only in its first call.
        present = tuple(g is not None for g in gradients)
        if present not in self._functions:
            self._functions[present] = tf.function(self._traced, jit_compile=self.jit_compile)
        self._functions[present](gradients)

    def _traced(self, gradients: list[Any]) -> None:
        super()._apply(gradients)


class CompiledFunctionAdapter(FunctionAdapter):
    """``tf.function(jit_compile=True)``."""

    jit_compile = True


class MirroredAdapter(FunctionAdapter):
    """``MirroredStrategy`` over two CPU devices in TensorFlow 2."""

    def __init__(self, case: Case) -> None:
        """Makes a strategy with two replicas, on the logical CPU devices of ``prepare``."""
        self._strategy = _mirrored()
        super().__init__(case)

    def _read(self, weights: list[Any], slots: list[Any]) -> list[WeightState]:
        return _agreed(self._strategy, super()._read, weights, slots)

    def _build(self, weights: list[np.ndarray]) -> None:
        with self._strategy.scope():
            super()._build(weights)

    def _restore(self, path: str) -> None:
        # Under a strategy, TensorFlow restores the value of a slot only when the optimizer creates
        # the slot, in its first step. Create the slots now, to read the restored values.
        with self._strategy.scope():
            super()._restore(path)
            self._optimizer._create_slots(self._weights)

    def _apply(self, gradients: list[Any]) -> None:
        distribute = self._strategy.experimental_distribute_values_from_function
        super()._apply(
            [
                None
                if g is None
                else distribute(lambda replica, g=g: _share(g, replica.replica_id_in_sync_group))
                for g in gradients
            ]
        )

    def _traced(self, gradients: list[Any]) -> None:
        self._strategy.run(super()._traced, args=(gradients,))


VERSION = tf.__version__
VARIANTS = False
ADAPTERS = {
    "Session": SessionAdapter,
    "Session, ref. vars": ReferenceVariableAdapter,
    "Session, mirrored": MirroredSessionAdapter,
    "eager": EagerExecutionAdapter,
    "function": FunctionAdapter,
    "function, XLA": CompiledFunctionAdapter,
    "function, mirrored": MirroredAdapter,
}


def prepare() -> None:
    """Makes two logical CPU devices for ``MirroredStrategy``, before TensorFlow is used."""
    tf.get_logger().setLevel("ERROR")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


def _variables(weights: Sequence[np.ndarray]) -> list[tf.Variable]:
    return [tf.Variable(tf.constant(w), name=f"w{i}") for i, w in enumerate(weights)]


def _optimizer(case: Case, **changing: Any) -> NovoGrad:
    """Makes the optimizer of a case, with ``changing`` instead of some hyperparameters."""
    arguments = asdict(case.hyperparameters(0)) | changing
    chosen = {f"w{i}:0": layers for i, layers in enumerate(case.layers)}
    return NovoGrad(
        use_nesterov=arguments.pop("nesterov"), layers=lambda w: chosen[w.name], **arguments
    )


def _slots(optimizer: NovoGrad, weights: Sequence[Any]) -> list[Any]:
    """Returns the momentum buffer and the second moment of each weight, in one list."""
    return [optimizer.get_slot(w, name) for w in weights for name in ("momentum", "v")]


def _layers(
    weights: Sequence[np.ndarray], state: Sequence[np.ndarray | None], case: Case
) -> list[WeightState]:
    """Combines weights with their state, where None is a slot that does not exist yet."""
    return [
        WeightState(
            np.array(w),
            np.zeros_like(w) if m is None else np.array(m),
            zero if v is None else np.array(v),
        )
        for w, m, v, zero in zip(
            weights, state[::2], state[1::2], zero_second_moments(case), strict=True
        )
    ]


def _mirrored() -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def _agreed(
    strategy: tf.distribute.Strategy,
    read: Callable[[list[Any], list[Any]], list[WeightState]],
    weights: list[Any],
    slots: list[Any],
) -> list[WeightState]:
    """Reads the variables of the first replica, and checks that the second has the same bits."""
    local = strategy.experimental_local_results
    first, second = (
        read(
            [local(w)[replica] for w in weights],
            [None if slot is None else local(slot)[replica] for slot in slots],
        )
        for replica in range(2)
    )
    for layer, other in zip(first, second, strict=True):
        if any(x.tobytes() != y.tobytes() for x, y in zip(layer, other, strict=True)):
            raise MismatchError(f"replicas differ: {layer} and {other}")
    return first


def _share(gradient: Any, replica: int) -> Any:
    """Returns a replica's share of a gradient. The shares add up exactly; their norms do not."""
    size = gradient.shape.num_elements()
    mask = np.arange(size).reshape(gradient.shape) % 2 == replica
    return tf.where(mask, gradient, tf.zeros_like(gradient))
