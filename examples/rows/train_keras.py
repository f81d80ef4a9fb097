"""Train with the variant ``rows`` in Keras, with weight decay for matrices only.

KERAS_BACKEND=jax python examples/rows/train_keras.py
"""

import keras
from sklearn.datasets import load_digits

from novograd.keras import NovoGrad

BATCH, EPOCHS = 64, 3


def main():
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64),
            keras.layers.LayerNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(10),
        ]
    )
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=0.003, warmup_steps=steps // 10
    )
    # As with AdamW, the learning rate times weight_decay is what a step takes off.
    optimizer = NovoGrad(schedule, weight_decay=0.01, variant="rows")
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(images, labels, BATCH, EPOCHS, verbose=0).history["loss"]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
