"""Makes the .keras files beside it; run it with the interpreter of TensorFlow's environment."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

FOLDER = Path(__file__).parent


def perceptron() -> keras.Model:
    """Over one matrix of five numbers: trained, compiled, with an optimizer's state."""
    make = np.random.default_rng(0)
    raw = make.normal(size=(1500, 5)).astype("float32")
    label = (raw[:, 0] + raw[:, 1] ** 2 + make.normal(0, 0.5, 1500) > 1).astype("float32")
    scale = layers.Normalization()
    scale.adapt(raw)
    hidden = [layers.Dense(64), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.2)]
    end = [layers.Dense(32, activation="gelu"), layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((5,)), scale, *hidden, *end])
    model.compile("adam", "binary_crossentropy")
    model.fit(raw, label, epochs=8, verbose=0)
    return model


def named() -> keras.Model:
    """Over named inputs: two numbers and two categories, one embedded and one as 0 and 1."""
    amount, risk = keras.Input((1,), name="amount"), keras.Input((1,), name="risk")
    mode = keras.Input((1,), name="mode", dtype="int32")
    shop = keras.Input((1,), name="shop", dtype="int32")
    places = layers.Flatten()(layers.Embedding(3, 4)(mode))
    flags = layers.CategoryEncoding(5, output_mode="one_hot")(shop)
    row = layers.Concatenate()([amount, risk, places, flags])
    row = layers.Dense(16, activation="tanh")(row)
    end = layers.Dense(2, activation="softmax")(row)
    return keras.Model([amount, risk, mode, shop], end)


def signal() -> keras.Model:
    """Over eight readings of two sensors: a small convolution."""
    body = [layers.Conv1D(6, 3, activation="relu"), layers.BatchNormalization()]
    end = [layers.MaxPooling1D(2), layers.Flatten(), layers.Dense(1, activation="sigmoid")]
    return keras.Sequential([keras.Input((8, 2)), *body, *end])


def image() -> keras.Model:
    """Over six by six points: convolutions in two directions."""
    body = [layers.Conv2D(4, 3, padding="same", activation="relu"), layers.AveragePooling2D(2)]
    end = [layers.DepthwiseConv2D(2), layers.GlobalAveragePooling2D()]
    last = layers.Dense(2, activation="softmax")
    return keras.Sequential([keras.Input((6, 6, 1)), *body, *end, last])


def code() -> keras.Model:
    """With a function of Python's in it."""
    twice = layers.Lambda(lambda rows: rows * 2)
    return keras.Sequential([keras.Input((5,)), twice, layers.Dense(1, activation="sigmoid")])


def logits() -> keras.Model:
    """Whose end is no probability."""
    return keras.Sequential([keras.Input((5,)), layers.Dense(1, kernel_initializer="ones")])


if __name__ == "__main__":
    for make in (perceptron, named, signal, image, code, logits):
        keras.utils.set_random_seed(1)
        make().save(FOLDER / f"{make.__name__}.keras")
