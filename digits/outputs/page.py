"""Page: building blocks of reports, such as figures and tables, as HTML and as markdown.

A page is self-contained: it contains its styles and pictures, fetches nothing and executes nothing. Text from outside
(file names, class names, error messages) is escaped, so it cannot become markup.
"""

import html
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from digits.outputs.drawing import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
COLOURS = 96
INK, MUTED, FAINT = "#26292e", "#6b7280", "#e5e5e0"
BLUE, ORANGE, PALE_BLUE = "#2563a8", "#d9730d", "#dbe7f4"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and rows of a table."""
NEWLINE = "\n"


class Bar(NamedTuple):
    """Bar of a chart: its name, its value as text, and its length as a share in 0..1."""

    name: str
    value: str
    share: float


class Picture(NamedTuple):
    """Picture of a gallery: a PNG, None if there is none; its title, and the name of the file below it."""

    png: bytes | None
    title: str
    name: str


# --- figures ---------------------------------------------------------------------------------------------------------


@contextmanager
def figure(width: float, height: float, ground: str = "white") -> "Iterator[Figure]":
    """Yield an empty figure of a size in inches, created without pyplot and its global list of figures.

    Matplotlib's log messages about its caches are suppressed.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure

        yield Figure((width, height), DPI, layout="constrained", facecolor=ground)
    finally:
        logger.setLevel(level)


def as_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG with a palette. The same figure always has the same bytes."""
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def style(axes: "Axes", title: str = "", *, x: str = "", y: str = "", grid: bool = True) -> None:
    """Set the title and labels of axes, and hide the frame and the tick marks."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=FAINT, linewidth=0.8)
    for side in axes.spines.values():
        side.set_visible(False)


# --- tables ----------------------------------------------------------------------------------------------------------


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Return values by name as a table without a header; nested values get dotted names."""
    return ("", ""), [(name, in_words(value)) for name, value in _flattened(facts)]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def in_words(value: object) -> str:
    """Return a value as text: sequences are joined, and the digits of numbers grouped."""
    if isinstance(value, list | tuple):
        return (" " if any(_is_sentence(part) for part in value) else ", ").join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return "none" if value in (None, {}) else str(value)


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and value.endswith(".")


# --- as a page -------------------------------------------------------------------------------------------------------

_CSS = """
:root { color-scheme: light dark; --ground: #fafaf7; --card: #fff; --ink: #26292e; --muted: #6b7280; --line: #e5e5e0;
  --accent: #2563a8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --card: #1f2227; --ink: #e4e5e8; --muted: #9aa0aa; --line: #33373e; --accent: #7fb2e8; }
  img.chart { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
  img.photo { filter: brightness(.88); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 820px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 20px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 28px; }
dl.tiles div, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
dl.tiles div { padding: 12px 16px; display: flex; flex-direction: column-reverse; }
dl.tiles dt { color: var(--muted); font-size: 13px; }
dl.tiles dd { margin: 0; font-size: 23px; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.tiles div:first-child dd { color: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; }
tbody th { font-weight: 500; white-space: nowrap; padding-right: 28px; }
table.numbers td, table.numbers thead th:not(:first-child) { text-align: right; }
table.wide th, table.wide td { white-space: nowrap; overflow-wrap: normal; }
table.wide tbody th { padding-right: 14px; }
table.facts th { width: 1%; color: var(--muted); font-weight: 400; }
figure { margin: 0; padding: 14px 14px 10px; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--muted); font-size: 13.5px; margin-top: 10px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px; overflow-x: auto;
  font: 12.5px/1.35 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { border-top: 1px solid var(--line); padding: 12px 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
details > :last-child { margin-top: 12px; margin-bottom: 0; }
table.bars { table-layout: auto; }
table.bars td:first-of-type { width: 100%; }
table.bars td:last-child { text-align: right; padding-right: 0; white-space: nowrap; }
.bar { height: 14px; min-width: 1px; border-radius: 3px; background: var(--accent); margin-top: 4px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 10px; }
.gallery figure { padding: 8px; min-width: 0; }
.gallery img, .gallery .none { width: 100%; aspect-ratio: 1; object-fit: contain; background: #80808022; }
.gallery .none { display: grid; place-items: center; color: var(--muted); font-size: 12px; border-radius: 4px; }
.gallery img { image-rendering: pixelated; }
.gallery figcaption { margin-top: 6px; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; overflow: hidden;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4; }
.gallery b { display: block; color: var(--ink); }
ul { padding-left: 20px; margin: 0; }
li { margin: 4px 0; }
@media print { figure { break-inside: avoid; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, tiles: Mapping[str, str], body: Iterable[str]) -> str:
    """Return one self-contained HTML page, in the light or dark style of the reader's system.

    Args:
        title: title of the page, and its first heading.
        tiles: headline figures by name, shown first and large.
        body: HTML of the rest.
    """
    numbers = "".join(
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}</dd></div>" for name, value in tiles.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html_text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join([f"<h1>{html_text(title)}</h1>", f'<dl class="tiles">{numbers}</dl>', *body])
        + "\n</main>\n</body>\n</html>\n"
    )


def html_text(text: str) -> str:
    """Return text as HTML; characters that could be markup become character references."""
    return html.escape(printable(text))


def html_table(table: Table, kind: str) -> str:
    """Return a table as HTML, of the kind `facts` (names and values) or `numbers` (with a header).

    A table of the kind `numbers wide` scrolls sideways and does not wrap its lines.
    """
    header, rows = table
    head = "".join(f'<th scope="col">{html_text(name)}</th>' for name in header)
    lines = "".join(
        f'<tr><th scope="row">{html_text(first)}</th>{"".join(f"<td>{html_text(cell)}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>\n" if any(header) else ""
    return f'<div class="scroll"><table class="{kind}">\n{thead}<tbody>\n{lines}</tbody></table></div>'


def html_findings(findings: Sequence[str]) -> Iterable[str]:
    """Yield sentences as an HTML list under a heading; nothing if there are no sentences."""
    if findings:
        yield "<h2>Findings</h2>"
        yield f"<ul>{''.join(f'<li>{html_text(finding)}</li>' for finding in findings)}</ul>"


def html_figure(title: str, png: bytes, caption: str, *, kind: str = "chart") -> str:
    """Return a picture as HTML with a heading and caption. A dark page inverts a `chart`, but not a `photo`."""
    caption = html_text(caption)
    return (
        f'<h2>{html_text(title)}</h2>\n<figure><img class="{kind}" alt="{html_text(title)}. {caption}" '
        f'src="{data_uri(png)}"><figcaption>{caption}</figcaption></figure>'
    )


def html_bars(title: str, bars: Sequence[Bar]) -> Iterable[str]:
    """Yield counts as a bar chart under a heading, as HTML."""
    yield f"<h2>{html_text(title)}</h2>"
    lines = "".join(
        f'<tr><th scope="row">{html_text(bar.name)}</th><td><div class="bar" style="width:{bar.share:.2%}"></div></td>'
        f"<td>{html_text(bar.value)}</td></tr>\n"
        for bar in bars
    )
    yield f'<table class="bars"><tbody>\n{lines}</tbody></table>'


def html_gallery(title: str, about: str, pictures: Iterable[Picture]) -> Iterable[str]:
    """Yield pictures with their titles and names under a heading and a sentence, as HTML."""
    yield f"<h2>{html_text(title)}</h2>\n<p>{html_text(about)}</p>"
    yield f'<div class="gallery">{NEWLINE.join(map(_html_picture, pictures))}</div>'


def _html_picture(picture: Picture) -> str:
    title, name = html_text(picture.title), html_text(picture.name)
    image = '<div class="none">no picture</div>'
    if picture.png is not None:
        image = f'<img class="photo" alt="{name}" src="{data_uri(picture.png)}">'
    return f'<figure title="{name}">{image}<figcaption><b>{title}</b>{name}</figcaption></figure>'


def html_code(text: str) -> str:
    """Return text as preformatted HTML."""
    return f"<pre>{html.escape(printable(text, keep=NEWLINE))}</pre>"


def html_details(title: str, body: str) -> str:
    """Return HTML that is collapsed until the reader opens it."""
    return f"<details><summary>{html_text(title)}</summary>\n{body}</details>"


# --- as markdown -----------------------------------------------------------------------------------------------------


def printable(text: str, keep: str = "") -> str:
    r"""Return text in which characters are escaped that are invisible, reorder text or cannot be encoded."""
    return "".join(
        character
        if character.isprintable() or character in keep
        else " "
        if character.isspace()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def markdown_text(text: str) -> str:
    """Return text as markdown, with backslashes before characters that could be markup (CommonMark 0.31, 2.4).

    Character references are not used, because one of Prefect's two UIs shows them literally.
    """
    return re.sub(r"[!-$&*+:-@\[-`{-~]", r"\\\g<0>", printable(text))


def markdown_table(table: Table) -> str:
    """Return a table as markdown, with numeric columns aligned right."""
    header, rows = table
    rules = ["---:" if rows and any(header) and _is_numeric(column) else "---" for column in zip(*rows, strict=True)]
    lines = [[markdown_text(cell) for cell in row] for row in (header, *rows)]
    lines.insert(1, rules or ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_numeric(cells: Iterable[str]) -> bool:
    return all(re.fullmatch(r"[\d.,]+%?|none", cell) for cell in cells)


def markdown_list(sentences: Iterable[str]) -> str:
    """Return sentences as a markdown list."""
    return "\n".join(f"- {markdown_text(sentence)}" for sentence in sentences)


def markdown_figure(title: str, png: bytes, caption: str) -> Iterable[str]:
    """Return the markdown of a picture: heading, picture as a data URI, and caption."""
    caption = markdown_text(caption)
    return (f"## {markdown_text(title)}", f"![{markdown_text(title)}. {caption}]({data_uri(png)})", caption)


def markdown_code(text: str) -> str:
    """Return text as a markdown code block, with a fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{printable(text, keep=NEWLINE)}\n{fence}"
