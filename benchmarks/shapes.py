"""The shapes that steps are timed on: those of real models, from their architecture, and the extremes."""

from collections.abc import Sequence
from typing import TypeAlias

Shapes: TypeAlias = list[tuple[int, ...]]


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> Shapes:
    """Return the parameters' shapes of a bottleneck ResNet (He et al. 2016).

    The default is ResNet-50: 161 tensors, 25.6 million elements.
    """

    def convolution(inputs: int, outputs: int, size: int) -> Shapes:
        return [(outputs, inputs, size, size), (outputs,), (outputs,)]  # weight, batch norm's scale and shift

    shapes = convolution(3, width, 7)
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for block in range(count):
            shapes += convolution(inputs, inner, 1) + convolution(inner, inner, 3) + convolution(inner, 4 * inner, 1)
            if block == 0:
                shapes += convolution(inputs, 4 * inner, 1)
            inputs = 4 * inner
    return [*shapes, (classes, inputs), (classes,)]


def transformer(layers: int = 24, width: int = 2048, vocabulary: int = 50257, context: int = 2048) -> Shapes:
    """Return the parameters' shapes of a GPT (Brown et al. 2020) whose output layer is tied to the embedding.

    The default is their model of 1.3 billion parameters.
    """
    norm: Shapes = [(width,), (width,)]

    def linear(inputs: int, outputs: int) -> Shapes:
        return [(outputs, inputs), (outputs,)]

    attention = linear(width, 3 * width) + linear(width, width)
    layer = norm + attention + norm + linear(width, 4 * width) + linear(4 * width, width)
    return [(vocabulary, width), (context, width), *layer * layers, *norm]


def workloads(itemsize: int) -> dict[str, Shapes]:
    """Return the shapes that `gpu` and `clip` time, for a dtype of `itemsize` bytes."""
    return {
        "1 × 1 GB": [(10**9 // itemsize,)],
        "ResNet-50": resnet(),
        "transformer 1.3B": transformer(),
        "1,000 × 1,024": [(1024,)] * 1000,
        "20,000 × 32": [(32,)] * 20000,
    }


def tiny_workloads(itemsize: int) -> dict[str, Shapes]:
    """Return the same kinds of shapes, small enough for interpreted kernels."""
    return {
        "1 × 1 GB": [(10**4 // itemsize,)],
        "ResNet-50": resnet((1,), width=2, classes=3),
        "transformer 1.3B": transformer(1, 8, 16, 8),
        "1,000 × 1,024": [(1024,)] * 4,
        "20,000 × 32": [(32,)] * 8,
    }
