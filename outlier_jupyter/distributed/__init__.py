"""A model's experts spread over ranks: processes on this machine or others, each with its share.

This process keeps the rest of the model. For each MoE layer it sends the layer's input to all
ranks; each computes the experts that it owns, and MLX's `all_sum` over their ring makes one output.
No MLX here: `engine/rank_worker` is a rank's program, `paging/elsewhere` the layers' side.
"""

from ..residency.placement import Placement, even, learned
from .hosts import Host, hosts_of
from .ranks import Ranks

__all__ = ["Host", "Placement", "Ranks", "even", "hosts_of", "learned"]
