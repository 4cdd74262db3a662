"""The host's side of a layer-wise update: measure, find the ratios, apply; three launches for any number of tensors."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codecs import Codec, Codecs, plain
from .launch import LAUNCH_OPTIONS, Gradients, MultiTensorUpdate, Pass
from .measure import FINISH
from .reductions import ratio_kernel
from .rule import LayerRule
from .runtime import INTERPRETED
from .table import upload


class Functions(NamedTuple):
    """What a pass calls of a rule, and whether it stores the states."""

    rule: tuple[Any, Any, Any]  # update, direction, advance
    stores: bool


def passes(rule: LayerRule, of_states: Iterable[Codec]) -> tuple[Functions, Functions]:
    """Return what the pass that measures and the one that applies call.

    A small second moment rounds to zero in float16, and the step would then be divided by eps alone. The pass that
    applies therefore advances float16 states again, from values that are not rounded, and reads the gradient for it. It
    also does so if codecs of states are not plain.
    """
    fit = all(codec == plain(codec.dtype) and codec.dtype != tl.float16 for codec in of_states)
    early = rule.advance is not None and fit
    measured = None if rule.advance is None else rule.direction
    return (
        Functions((rule.update, measured, rule.advance), early),
        Functions((rule.update, rule.direction, None if early else rule.advance), not early),
    )


def measuring_block(block: int, exact: bool) -> int:
    """Return how many elements a program measures: twice as many where all is half precision, which is not exact.

    Of half precision a pass reads few bytes, and the instructions around a chunk are then a smaller part of all.
    """
    return block if INTERPRETED or exact else 2 * block


class LayerUpdate(MultiTensorUpdate):
    """The update by a layer-wise rule: its arguments are those of `MultiTensorUpdate`.

    What the launches leave for one another stays at one address for as long as the object lives, as CUDA graphs need.

    Example:
        >>> import torch
        >>> from torch_gd.triton_kernels import launch, layer_rules, layers
        >>> params, grads = [torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 1.0])]
        >>> update = layers.LayerUpdate(layer_rules.LARS, (), [params, grads])
        >>> hyperparameters = (1.0, 0.0, 0.0, 0.0, 0.1, 0.0, False, True, False)  # lr, ..., trust_coeff, ...
        >>> update.derive_on_host([0], [(2.0, 1.0, 0.0, 0.0, *hyperparameters)])
        >>> update.run([t.data_ptr() for t in (*params, *grads)], launch.UNCHANGED)
        >>> params  # the step is the gradient times 0.1 · 5 / 1
        [tensor([3.0000, 3.5000])]
    """

    rule: LayerRule

    def __init__(
        self,
        rule: LayerRule,
        options: tuple[Any, ...],
        columns: Sequence[Sequence[Tensor]],
        codecs: Codecs | None = None,
        noise: Sequence[list[int]] | None = None,
    ) -> None:
        super().__init__(rule, options, columns, codecs, noise)
        measure, apply = passes(rule, islice(self.codecs, 2, None))
        block = measuring_block(self.block, self.exact)
        chunks, n = self.table.chunks(block), self.table.n
        partials, self.sums = self._doubles(2, len(chunks)), self._doubles(2, n)
        self.ratios = self._doubles(n)
        self.measuring = Pass(chunks, block, *measure, partials=partials)
        self.update = Pass(self.chunks, self.block, *apply, ratios=self.ratios)
        counts = [triton.cdiv(numel, block) for numel in self.table.numels]
        self._firsts = upload(array("q", accumulate(counts, initial=0)), self.device)

    def _doubles(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def run(self, addresses: list[int], gradients: Gradients) -> None:
        """Launch the whole update, as `MultiTensorUpdate.run` does."""
        self.measure(addresses, gradients)
        self._finish(self._firsts, self.measuring.partials, self.ratios, self.rule.trust)
        self.launch(self.update, gradients)

    def sums_of_squares(self, addresses: list[int], gradients: Gradients) -> Tensor:
        """Launch the first half of an update of which other ranks hold parts.

        Returns:
            Sums of squares of each parameter, and of what the rule measures; float64, shape (2, tensors).
        """
        self.measure(addresses, gradients)
        self._finish(self._firsts, self.measuring.partials, self.sums, None)
        return self.sums

    def apply(self, sums: Tensor, gradients: Gradients) -> None:
        """Launch the second half, with the sums of whole tensors."""
        self._finish(None, self.sums.copy_(sums), self.ratios, self.rule.trust)
        self.launch(self.update, gradients)

    def measure(self, addresses: list[int], gradients: Gradients) -> None:
        """Launch the pass that leaves the partial sums, and advances states where the rule does so first."""
        self.table.set_addresses(addresses)
        self.launch(self.measuring, gradients)

    def _finish(self, firsts: Tensor | None, partials: Any, out: Tensor, trust: Any) -> None:
        """Launch a program for each tensor, which adds up its sums; `trust` makes a ratio of them."""
        if len(self.chunks) == 0:
            return
        count = partials.shape[1]
        args = (
            self.table.data,
            self._scalars,
            firsts,
            partials,
            out,
            self.table.n,
            count,
            trust,
            self.width,
            FINISH,
        )
        specialization = ("ratio", firsts is None, trust is None, self.width)
        with self._on_device:
            self._kernels.run(ratio_kernel, self.table.n, specialization, args, LAUNCH_OPTIONS | {"num_warps": 8})
