"""Matrix products over packed weights, and attention, compiled for the processor by Numba.

Pure functions over NumPy arrays; nothing here knows of MLX, models or paging. Arrays hold the bytes
that MLX packs: see `formats`. The import of this room loads Numba, so it is made late.
"""

from .attention import Attend, Cached, Keep, attend
from .compiled import RUNNING
from .experts import Activation, Bank, Experts
from .formats import Format, affine, mxfp4, plain
from .kernel_chain import Chain, Link, Workspace
from .linear import Matrix, Stack
from .norm_and_top_k import blend_link, choose_link, norm_link
from .precompile import for_attention, for_experts, for_layers, for_matrix, warm
from .prefill_attention import attend_causal
from .prefill_matmul import MANY_ROWS, experts_many, multiply_many
from .rope import HeadRotation

__all__ = [
    "MANY_ROWS",
    "RUNNING",
    "Activation",
    "Attend",
    "Bank",
    "Cached",
    "Chain",
    "Experts",
    "Format",
    "HeadRotation",
    "Keep",
    "Link",
    "Matrix",
    "Stack",
    "Workspace",
    "affine",
    "attend",
    "attend_causal",
    "blend_link",
    "choose_link",
    "experts_many",
    "for_attention",
    "for_experts",
    "for_layers",
    "for_matrix",
    "multiply_many",
    "mxfp4",
    "norm_link",
    "plain",
    "warm",
]
