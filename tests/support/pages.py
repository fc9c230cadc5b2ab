"""Parsers of HTML pages and of markdown, and text that tries to become markup."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

HOSTILE = (
    "a|b`c`\n# x <script>alert(1)</script> [l](javascript:x) ![i](y) *e* _u_ \\ &lt; \u202e\udcff\x00 https://e.org"
)
SHOWN = (
    "a|b`c` # x <script>alert(1)</script> [l](javascript:x) ![i](y) *e* _u_ \\ &lt; \\u202e\\udcff\\x00 https://e.org"
)
"""Text that tries to become markup, and the same as a page shows it."""
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Parser that reads a page as a browser does: its elements, text and the nesting of its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost element ends."""
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]


def rendered(markdown: str) -> Page:
    """Render markdown as Prefect would show it, data URIs included."""
    parser = MarkdownIt("commonmark").enable("table")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return Page(parser.render(markdown))
