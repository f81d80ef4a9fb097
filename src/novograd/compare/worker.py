"""One run as a process of its own: ``python -m novograd.compare.worker SPEC_JSON``.

SPEC_JSON is a ``novograd.compare.runner.Run`` as a JSON object. Each event of the run (see
``novograd.compare.training.train``) becomes one line of JSON on standard output, and nothing else
does. Errors go to standard error, with a non-zero exit status.
"""

import contextlib
import importlib
import json
import os
import sys

from novograd.compare.runner import Run
from novograd.compare.training import train

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # By default TensorFlow uses oneDNN on some CPUs only; without it a step takes twice as long.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "KERAS_TORCH_DEVICE": "cpu",
    "JAX_PLATFORMS": "cpu",
    "NPROC": "1",  # to XLA's thread pools, the number of processors
}


def main() -> None:
    """Runs the SPEC_JSON of the command line."""
    run = Run(**json.loads(sys.argv[1]))
    # Frameworks read it when imported.
    os.environ.update({"KERAS_BACKEND": run.framework, **ENVIRONMENT})
    lines = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            framework = importlib.import_module(f"novograd.compare.{run.framework}")
            trainer = framework.trainer(run.optimizer, run.seed)
            for event in train(trainer, run.learning_rate, run.seed, run.steps):
                print(json.dumps(event, allow_nan=False), file=lines, flush=True)
    except BrokenPipeError:
        os._exit(1)  # the comparison this run belongs to is gone, and so is anyone to tell
    os._exit(0)  # spares the framework's own clean-up, a second of it


if __name__ == "__main__":
    main()
