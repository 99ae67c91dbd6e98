"""What loading leaves of earlier models."""

from __future__ import annotations

import gc
import weakref

import outlier_jupyter


def test_a_model_nobody_has_is_gone_before_the_next_is_loaded(tiny):
    """Two caches that do not fit beside each other can be had one after the other."""
    gc.disable()
    try:
        with outlier_jupyter.load(tiny, resident=True) as engine:
            bank = weakref.ref(engine._installed.pagers[0].bank)
        del engine
        with outlier_jupyter.load(tiny, cache_experts=4):
            assert bank() is None
    finally:
        gc.enable()
