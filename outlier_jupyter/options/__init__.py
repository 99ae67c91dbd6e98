"""The options of loading and of generating: two frozen dataclasses, one field per option.

The Python API, the magic's flags and the command line are made from these fields, so each name,
default, help text and check exists once. A flag is the field's name with dashes. This package knows
neither the parsers nor the code that follows the options: `load` and `generate` declare them,
`fields` checks their values, `make` builds them from keyword arguments.
"""

from .fields import CONVERTERS, bias_of, choices_of, expert_texts, help_of, option, settle
from .generate import KV_BITS, KV_GROUP_SIZES, NEUTRAL, GenerateOptions
from .load import AUTO, KERNELS, READERS, SWEPT, LoadOptions, policy_name, resized
from .make import make, settled, takes
from .words import recorded, sampling_words

__all__ = [
    "AUTO", "CONVERTERS", "KERNELS", "KV_BITS", "KV_GROUP_SIZES", "NEUTRAL", "READERS", "SWEPT",
    "GenerateOptions", "LoadOptions", "bias_of", "choices_of", "expert_texts", "help_of", "make",
    "option", "policy_name", "recorded", "resized", "sampling_words", "settle", "settled", "takes",
]  # fmt: skip
