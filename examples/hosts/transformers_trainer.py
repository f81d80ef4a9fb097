"""Train a tiny language model with NovoGrad in the Trainer of transformers.

    python examples/hosts/transformers_trainer.py

Set ``weight_decay`` in TrainingArguments: Trainer makes two parameter groups and gives them this
value. A ``weight_decay`` among the arguments of the optimizer has no effect.
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from novograd.torch import NovoGrad

TEXT = "the quick brown fox jumps over the lazy dog. " * 64
LENGTH = 32


def examples():
    """Returns pieces of the text, each character as a number."""
    codes = torch.tensor([ord(letter) % 64 for letter in TEXT])
    return [{"input_ids": piece, "labels": piece} for piece in codes.split(LENGTH)[:-1]]


def main():
    set_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = 0
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=60,
            per_device_train_batch_size=16,
            weight_decay=1e-3,  # used; the value below has no effect
            lr_scheduler_type="cosine",
            logging_steps=5,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            GPT2LMHeadModel(config),
            arguments,
            train_dataset=examples(),
            optimizer_cls_and_kwargs=(NovoGrad, {"lr": 0.02, "weight_decay": 0.5}),
        )
        trainer.train()
    decays = [group["weight_decay"] for group in trainer.optimizer.param_groups]
    print(f"weight decay of the groups: {decays}")
    assert decays == [1e-3, 0.0]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {float(losses[0]):.3f} -> {float(losses[-1]):.3f}")
    assert float(losses[-1]) < 0.8 * float(losses[0])


if __name__ == "__main__":
    main()
