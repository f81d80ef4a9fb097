"""Invented results of a comparison, for tests."""

from novograd.compare.optimizers import find
from novograd.compare.plan import FIRST_JUDGE


def row(optimizer, rate, seed, score, **more):
    """Returns a finished run whose first metric rises to a score in two evaluations."""
    return {
        "optimizer": optimizer,
        "learning_rate": rate,
        "seed": seed,
        "part": "test" if seed >= FIRST_JUDGE else "validation",
        "loss": [4.0, 3.0, 2.0, 1.0],
        "evaluations": [
            {"step": 2, "held_out_loss": 2.0, "metrics": {"accuracy": score / 2, "other": 1.0}},
            {"step": 4, "held_out_loss": 1.0, "metrics": {"accuracy": score, "other": 2.0}},
        ],
        "status": "finished",
        "held_out_loss": 1.0,
        "metrics": {"accuracy": score, "other": 2.0 + seed},
        "step_ms": 10.0 + seed,
        "update_ms": 1.0,
        "state_bytes": 1234,
        "weight_bytes": 1000,
        "settings": {"beta1": 0.9},
        "versions": {"numpy": "2.0"},
        **more,
    }


def judged(optimizer, *scores, rate=0.01, **more):
    """Returns judged runs with these scores."""
    return [row(optimizer, rate, FIRST_JUDGE + i, score, **more) for i, score in enumerate(scores)]


def searched(optimizer, scores, **more):
    """Returns the runs of a search, from scores by learning rate."""
    return [row(optimizer, rate, 0, score, **more) for rate, score in scores.items()]


def results(runs, **more):
    """Returns results with these runs, in the format of ``runner.compare``."""
    names = list(dict.fromkeys(run["optimizer"] for run in runs))
    rates = {
        name: sorted({run["learning_rate"] for run in runs if run["optimizer"] == name})
        for name in names
    }
    return {
        "schema": 4,
        "novograd": "0.0",
        "command": "novograd compare",
        "date": "2000-01-01",
        "machine": {
            "python": "3",
            "system": "Linux",
            "processor": "none",
            "cpus": 2,
            "device": "CPU",
        },
        "jobs": 2,
        "settings": {
            "task": "digits",
            "framework": "torch",
            "learning_rates": rates,
            "seeds": 3,
            "steps": 4,
            "schedule": "cosine",
            "quick": False,
            "device": "cpu",
            "extended": names,
            "arguments": {},
        },
        "task": {
            "title": "Digits",
            "about": "Says little.",
            "higher_is_better": True,
            "margin": 0.05,
            "steps": 4,
            "learning_rates": {},
            "validated": True,
        },
        "optimizers": {name: find(name).title for name in names},
        "status": "finished",
        "planned": len(runs),
        "runs": runs,
        **more,
    }
