"""A chat with tools in every syntax that mlx-lm has a parser for, from the call to what follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.notebook.chat.chat import Chat
from tests.engine.test_tool_calls import CITY, PLACE, SYNTAX
from tests.notebook.chat.scripted import script
from tests.test_tools import weather

TEMPLATE = """{{ tools | tojson }}
{%- for m in messages %}<{{ m.role }}>{{ m.content }}
{%- for call in m.tool_calls or [] %}[{{ call.id }} {{ call.function | tojson }}]{% endfor %}
{%- endfor %}<assistant>"""


@pytest.mark.parametrize("name", sorted(SYNTAX.keys() - {"harmony"}))
def test_both_calls_run_and_the_model_goes_on(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is no part of the answer's text; results are read in the calls' order."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    file = folder / "tokenizer_config.json"
    changes = {"chat_template": TEMPLATE, "tool_parser_type": name}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with outlier_jupyter.load(folder, cache_experts=8, quiet=True) as engine:
        chat = Chat(engine, tools=[weather], max_tokens=1000)
        script(monkeypatch, engine, "I look.\n" + "".join(SYNTAX[name]), "It rains.")
        first = chat.send("Paris and Rome?")
        calls = chat.messages[-1].tool_calls
        assert [(call.name, call.arguments) for call in calls] == [
            ("weather", CITY), ("weather", PLACE),
        ]  # fmt: skip
        assert chat.messages[-1].text == "I look." == first.answer
        kinds = set(first.segments.kind)
        assert "tool call" in kinds and {"answer"} < kinds
        second = chat.allow()
        assert second is not None and chat.answer == "It rains."
        after = second.encoded.split("<assistant>I look.")[1]
        assert after.index("Paris: 2 days of rain") < after.index("Rome: 1 days of rain")
        assert "tool result" in set(second.segments.kind)
        chat.close()
