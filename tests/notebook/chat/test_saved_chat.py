"""What a saved notebook shows of a chat: the conversation, escaped, bounded and static."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from nbconvert.filters.markdown_mistune import markdown2html_mistune

import outlier_jupyter
from outlier_jupyter.notebook.chat import saved_chat
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.chat.conversations import ASSISTANT, ROOT, USER, Conversations
from outlier_jupyter.notebook.chat.tool_calls import ToolCall
from outlier_jupyter.notebook.render import displays


def conversations(*texts: str) -> Conversations:
    made = Conversations()
    for index, text in enumerate(texts):
        made.current.add(made.current.end, ASSISTANT if index % 2 else USER, text)
    return made


def test_every_form_has_the_conversation() -> None:
    """HTML, Markdown and text have the questions, the answers and how each ended."""
    chats = conversations("What is an expert?", "One of **many**.")
    chats.current.system = "Be brief."
    answer = chats.current.path()[-1]
    answer.ended, answer.numbers = "length", {"generated": 1024, "tokens_per_second": 41.26}
    made = saved_chat.bundle("demo", chats)
    assert set(made) == {"text/html", "text/markdown", "text/plain"}
    for form in made.values():
        assert "What is an expert?" in form and "One of **many**." in form
        assert "1,024 tokens · 41.3 tokens/s · cut off at the token limit" in form
        assert form.count("You") == form.count("Answer") == 1
    assert "oj-static " in made["text/html"] and ' oj-transcript"' in made["text/html"]
    assert "Be brief." in made["text/html"] and "Be brief." in made["text/markdown"]


def test_text_is_never_html_and_no_script_is_there() -> None:
    """Text from a model, a user or a model's name is shown as text."""
    made = saved_chat.bundle("<i>m</i>", conversations("<b>q</b>", "<script>x</script>"))
    html = made["text/html"]
    assert "<script" not in html and "<b>q" not in html and "<i>m" not in html
    assert "&lt;script&gt;" in html


HOSTILE = (
    "<script>x</script>",
    "<img src=x onerror=alert(1)> ![i](http://e.org/i.png) [l](javascript:alert(1))",
    "http://e.org www.e.org <http://e.org> me@e.org <me@e.org> [r]\n\n[r]: data:text/html,x",
    "```\n<script>x</script>\n```\n~~~\n<img src=x>\n~~~\n" + "`" * 9 + "\n<b>out</b>",
    "a\r```\r<img src=x>\u2028<script>x</script>\x0b```\n<iframe src=x>",
    "|a|b|\n|-|-|\n|<img src=x>|[l](data:x)|\n\n<!-- c --><svg onload=x>\n\n# head\n- item",
    "    </code></pre><script>x</script>\n> ```\n<img src=x>\n\n$$\\href{javascript:x}{y}$$",
    "~" * 40 + "`" * 40 + "\n<script>",
)


class Elements(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)


def rendered(markdown: str) -> dict[str, set[str]]:
    """The elements that notebook renderers make of it, with links they detect in plain text."""
    known = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    pages = {"nbconvert": markdown2html_mistune(markdown), "commonmark": known.render(markdown)}
    found = {}
    for name, page in pages.items():
        elements = Elements()
        elements.feed(page)
        found[name] = elements.seen
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_makes_no_element_of_what_was_written(text: str) -> None:
    """Every renderer shows question, answer, system prompt, note and name as plain text."""
    chats = conversations(text, text)
    chats.current.system = text
    chats.current.path()[-1].note = text
    chats.current.path()[-1].ended = "error"
    made = saved_chat.bundle(text, chats)["text/markdown"]
    for name, elements in rendered(made).items():
        assert elements <= {"p", "strong", "em", "pre", "code", "div", "span"}, (name, made)


def with_parts(text: str) -> Conversations:
    """A conversation whose answer thought first and called a tool; all their texts are `text`."""
    chats = conversations("What is it?", "It is so.")
    answer = chats.current.path()[-1]
    answer.thinking = {"text": text, "seconds": 12.3, "tokens": 1310}
    answer.tool_calls = [ToolCall("call00001", text, {"query": text, "most": 3}, "done", text)]
    return chats


def test_thinking_and_tool_calls_are_folded_around_the_answer() -> None:
    """HTML and Markdown have them behind their titles, before and after the answer's text."""
    made = saved_chat.bundle("demo", with_parts("search"))
    for form in (made["text/html"], made["text/markdown"]):
        assert form.count("<details><summary>") == form.count("</details>") == 2
        assert "Thought for 12" in form and "1,310 tokens" in form.replace("\\", "")
        assert form.index("Thought for") < form.index("It is so.") < form.index("Tool call")
    assert "It is so." in made["text/plain"] and "search" in made["text/plain"]


def test_an_answer_of_calls_alone_needs_no_text() -> None:
    """Where there is a tool call, an empty text is not remarked on."""
    chats = with_parts("x")
    chats.current.path()[-1].text = ""
    made = saved_chat.bundle("demo", chats)
    assert all("(no text)" not in form for form in made.values())


@pytest.mark.parametrize("text", HOSTILE)
def test_folded_parts_make_no_element_of_what_was_written(text: str) -> None:
    """Thinking, and a call's name, arguments and result, are text in HTML and Markdown."""
    made = saved_chat.bundle("demo", with_parts(text))
    allowed = {"p", "strong", "em", "pre", "code", "div", "span", "details", "summary"}
    for name, elements in rendered(made["text/markdown"]).items():
        assert elements <= allowed, (name, made)
    page = Elements()
    page.feed(made["text/html"])
    assert page.seen <= allowed | {"style"}


@given(st.text(st.sampled_from("`~<>![]()$\\|*_#-:@.\n\r\u2028 ab"), max_size=60))
def test_nothing_leaves_its_block(text: str) -> None:
    """Each message has one block, which contains all of its lines, whatever its text is."""
    tokens = MarkdownIt("commonmark").parse(saved_chat.code_block(text))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content == "\n".join(text.splitlines() or ["(no text)"]) + "\n"


def test_all_conversations_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current one is first and open, the others follow by name, empty ones are not shown."""
    chats = conversations("What is an expert?", "One of many.")
    chats.current.add(chats.current.path()[0].id, ASSISTANT, "Another answer.")
    chats.new().title = "<b>second</b>"
    chats.current.add(ROOT, USER, "And a router?")
    second = chats.current
    chats.new().system = "Be brief."
    chats.current = chats.by_id[1]
    made = saved_chat.bundle("demo", chats)
    html = made["text/html"]
    for form in made.values():
        assert "And a router?" in form and "Be brief." not in form
        assert form.index("Another answer.") < form.index("And a router?")
    assert html.count("<details") == 2 and html.index("<details open>") < html.index("<details>")
    assert "chat · 2 conversations" in html and "&lt;b&gt;second&lt;/b&gt; · 1 message" in html
    assert "What is an expert? · 2 messages · 1 message of other versions not shown" in html
    for name, elements in rendered(made["text/markdown"]).items():
        assert elements <= {"p", "strong", "em", "pre", "code", "div", "span"}, name
    chats.current = second
    assert saved_chat.bundle("demo", chats)["text/plain"].startswith("<b>second</b>")
    monkeypatch.setattr(saved_chat, "KEPT_CHARS", 14)
    assert "1 more conversation not shown" in saved_chat.bundle("demo", chats)["text/html"]


def test_it_says_how_to_go_on() -> None:
    """In the chat's place it names the code to run."""
    made = saved_chat.bundle("demo", conversations("a", "b"))
    assert "To continue, run the cell that loads demo, then this cell again" in made["text/html"]
    assert "run the cell that loads demo" in made["text/markdown"]


def test_it_is_bounded_and_says_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the end of the current path."""
    chats = conversations(*("x" * 40 for _ in range(6)))
    monkeypatch.setattr(saved_chat, "KEPT_CHARS", 100)
    html = saved_chat.bundle("demo", chats)["text/html"]
    assert html.count("x" * 40) == 2
    assert "6 messages · the first 4 are not shown" in html


def test_an_empty_chat_shows_nothing() -> None:
    """An unused chat saves no text."""
    made = saved_chat.bundle("demo", Conversations())
    assert made["text/plain"] == "" and "demo" not in made["text/html"]


class Shell:
    """The part of IPython's shell that shows that a front end exists."""

    kernel = object()


def test_the_second_output_follows_the_chat(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins empty beside the widget, is updated with every turn, and is alone after close."""
    shown: list[tuple[str, bool, dict[str, str]]] = []

    def display(bundle: dict[str, str], raw: bool, display_id: str, update: bool = False) -> None:
        assert raw
        shown.append((display_id, update, bundle))

    monkeypatch.setattr(displays, "display", display)
    monkeypatch.setattr(displays, "get_ipython", Shell)
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        chat = Chat(engine, max_tokens=4)
        chat.send("Before it is shown")
        assert shown == []
        chat._ipython_display_()
        (widget, saved), latest = shown[:2], shown[-1]
        assert widget[0].endswith("-widget") and widget[0].startswith(saved[0])
        assert "application/vnd.jupyter.widget-view+json" in widget[2]
        assert latest[0] == chat.view_id == saved[0] and "Before it is" in latest[2]["text/html"]
        chat.send("Hello")
        display_id, update, bundle = shown[-1]
        assert (display_id, update) == (chat.view_id, True)
        assert "Hello" in bundle["text/plain"] and chat.answer in bundle["text/plain"]
        count = len(shown)
        chat.save_view()
        assert len(shown) == count  # nothing new
        chat.close()
        assert shown[-1] == (widget[0], True, {"text/plain": ""})


def test_a_terminal_gets_a_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a front end, the chat's repr is shown."""
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        chat = Chat(engine)
        chat._ipython_display_()
        assert capsys.readouterr().out.startswith("Chat(")
        chat.close()
