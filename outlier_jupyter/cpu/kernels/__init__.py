"""Matrix products over packed weights, and attention, compiled for the processor by Numba.

Pure functions over NumPy arrays, without MLX, models or paging. Arrays hold weights as MLX packs
them: see `formats`. Importing this package loads Numba, so it is imported late.
"""

from .append_kv import AppendKV, Cached
from .attention import Attend, attend
from .compiled import RUNNING
from .experts import Activation, Bank, Experts
from .formats import Format, affine, mxfp4, plain
from .gated_delta import Convolution, DeltaRule, state_places
from .gating import blend_link, sigmoid_link, swiglu_link
from .head_products import HeadMatrices
from .kernel_chain import Chain, Link, Workspace
from .linear import Matrix, Stack
from .norm_and_top_k import Scoring, choose_link, layer_norm_link, norm_link
from .precompile import (
    for_attention,
    for_delta,
    for_experts,
    for_heads,
    for_layers,
    for_matrix,
    precompile,
)
from .prefill_matmul import MANY_ROWS, experts_many, links_of_rows, multiply_many
from .rope import HeadRotation

__all__ = [
    "MANY_ROWS",
    "RUNNING",
    "Activation",
    "AppendKV",
    "Attend",
    "Bank",
    "Cached",
    "Chain",
    "Convolution",
    "DeltaRule",
    "Experts",
    "Format",
    "HeadMatrices",
    "HeadRotation",
    "Link",
    "Matrix",
    "Scoring",
    "Stack",
    "Workspace",
    "affine",
    "attend",
    "blend_link",
    "choose_link",
    "experts_many",
    "for_attention",
    "for_delta",
    "for_experts",
    "for_heads",
    "for_layers",
    "for_matrix",
    "layer_norm_link",
    "links_of_rows",
    "multiply_many",
    "mxfp4",
    "norm_link",
    "plain",
    "precompile",
    "sigmoid_link",
    "state_places",
    "swiglu_link",
]
