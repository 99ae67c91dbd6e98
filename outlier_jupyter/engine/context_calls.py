"""The part of `Engine` that keeps contexts in files; `contexts` and `save_context` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..options import GenerateOptions, takes
from .contexts import Context, context_for
from .prompts import Prompt


class ContextCalls:
    """Saves and opens contexts."""

    @takes(GenerateOptions)
    def save_context(self: Any, prompt: Prompt, path: str | Path, **options: Any) -> Context:
        """Read `prompt` once and keep it in a file, so that later runs go on from it.

        `generate(question, context=path)` then reads only its own tokens: a text goes on in the
        same message, after an empty line; messages follow. The file is in mlx-lm's prompt-cache
        format and serves the same model, with the same kernels.

        Args:
            prompt: as of `generate`; a document, an instruction with examples, or a conversation.
            path: where to write; a file that is there is replaced.
            **options: the fields of `GenerateOptions` that the beginning of a prompt depends on:
                system, raw, tools, template, kv_bits, mask …

        Raises:
            Interrupted: stopped by the user; nothing is written.
            OptionError: as of `generate`; or the file cannot be written.
        """
        from .save_context import save_context

        return save_context(self, prompt, Path(path), self.routing.options(options))

    @takes(GenerateOptions)
    def open_context(self: Any, path: str | Path, **options: Any) -> Context:
        """Take a context's KV cache into memory, where runs with `reuse_kv` find it.

        Args:
            path: of `save_context`.
            **options: as of `save_context`.

        Raises:
            OptionError: the file is no context of this model with these options.
        """
        settings = self.routing.options(options)
        with self.run_lock.ends_by_itself(), self._alone():
            context = context_for(self, str(path), settings)
            self._kv_caches.keep(context.tokens, context.load(self.kv_parts), settings)
        return context
