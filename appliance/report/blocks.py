"""What a page is made of, as plain values: sections of notes, facts, tables, figures and folds.

The sections are built in Python and only laid out by the templates, so that every section can be
tested without a browser and no template takes a decision. ``tone`` is never told by colour alone:
each has a word and a sign of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from markupsafe import Markup


class Tone(StrEnum):
    """How something stands: each tone has a colour, a sign and, where it is used, a word."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"
    PLAIN = "plain"

    @property
    def sign(self) -> str:
        """The sign that stands beside the word."""
        return {Tone.GOOD: "✔", Tone.BAD: "✘", Tone.OPEN: "?", Tone.PLAIN: "•"}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video of an episode: ``source`` is a relative link or a data: URI, ``label`` names it."""

    source: str
    label: str
    embedded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value: ``code`` sets it in a fixed-width font; ``video`` stands below the text."""

    text: str
    tone: Tone = Tone.PLAIN
    code: bool = False
    video: Video | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A table's column; numbers are set flush right."""

    label: str
    numeric: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first cell of a row is its header."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: Literal["table"] = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Labels with their values."""

    rows: tuple[tuple[str, Cell], ...]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A paragraph; with a tone it is set off and led by the tone's word."""

    text: str
    tone: Tone = Tone.PLAIN
    word: str = ""
    kind: Literal["note"] = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to be read or copied as it is."""

    caption: str
    text: str
    kind: Literal["code"] = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart in a wide and a narrow drawing, and the same as a table."""

    name: str
    title: str
    text: str
    wide: Markup
    narrow: Markup
    table: Table | None = None
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A key figure: large value, what it is, and what must be known beside it."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Key figures in a row."""

    tiles: tuple[Tile, ...]
    kind: Literal["tiles"] = "tiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What most readers skip: shown on demand, and always in print."""

    summary: str
    blocks: tuple[Block, ...]
    kind: Literal["fold"] = "fold"


Block = Table | Facts | Note | Code | Figure | Tiles | Fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A headed part of the page; ``name`` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


def code_cell(text: str | None) -> Cell:
    """A digest or another text to be compared letter by letter."""
    return Cell(text=text, code=True) if text else Cell(text="not recorded")


def text_cell(text: str | None) -> Cell:
    """A text, or the remark that there is none."""
    return Cell(text=text or "not recorded")


def make_table(
    name: str, caption: str, columns: tuple[str, ...], rows: Sequence[Sequence[Cell | str]]
) -> Table:
    """A table from texts and cells; a column whose label begins with ``#`` holds numbers."""
    return Table(
        name=name,
        caption=caption,
        columns=tuple(
            Column(label=label.removeprefix("#"), numeric=label.startswith("#"))
            for label in columns
        ),
        rows=tuple(
            tuple(cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row)
            for row in rows
        ),
    )
