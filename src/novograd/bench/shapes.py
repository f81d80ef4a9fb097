"""Shapes of the weights of the measured models.

Convolutions are in TensorFlow's layout: height, width, inputs, outputs.
"""

from collections.abc import Callable, Iterator

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """Returns ResNet-50's 161 variables, 25.6 million weights.

    Example:
        >>> import math
        >>> len(resnet50()), sum(map(math.prod, resnet50()))
        (161, 25557032)
    """
    return list(_resnet50())


def gpt2(width: int = 768, layers: int = 12, positions: int = 1024) -> Shapes:
    """Returns the parameters of a GPT-2; by default of the small one: 148, 124 million weights."""
    return list(_gpt2(width, layers, positions))


def unet() -> Shapes:
    """Returns the 36 variables, 29,508 weights, of the U-Net of ``novograd compare``."""
    return list(_unet())


def tiny() -> Shapes:
    """Returns 1,000 vectors of 64 weights, whose step is almost only overhead."""
    return [(64,)] * 1000


def _resnet50() -> Iterator[tuple[int, ...]]:
    yield from ((7, 7, 3, 64), (64,), (64,))
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        outputs = 4 * width
        for block in range(blocks):
            kernels = [(1, 1, inputs, width), (3, 3, width, width), (1, 1, width, outputs)]
            if block == 0:
                kernels.append((1, 1, inputs, outputs))
            for kernel in kernels:
                yield from (kernel, kernel[-1:], kernel[-1:])
            inputs = outputs
    yield from ((inputs, 1000), (1000,))


def _gpt2(width: int, layers: int, positions: int) -> Iterator[tuple[int, ...]]:
    yield from ((50257, width), (positions, width))
    for _ in range(layers):
        for out, into in ((3 * width, width), (width, width), (4 * width, width)):
            yield from ((out, into), (out,))
        yield from ((width, 4 * width), (width,))
        yield from ((width,),) * 4
    yield from ((width,),) * 2


def _unet() -> Iterator[tuple[int, ...]]:
    inputs, widths = 1, (8, 16, 32)
    for width in widths:
        for channels in (inputs, width):
            yield from ((3, 3, channels, width), (width,), (width,))
        inputs = width
    for width in widths[-2::-1]:
        yield from ((2, 2, width, inputs), (width,))
        for channels in (2 * width, width):
            yield from ((3, 3, channels, width), (width,), (width,))
        inputs = width
    yield from ((1, 1, inputs, 4), (4,))


# Keys are the names on the command line.
SHAPES: dict[str, Callable[[], Shapes]] = {
    "resnet-50": resnet50,
    "gpt-2": gpt2,
    "u-net": unet,
    "tiny": tiny,
}
