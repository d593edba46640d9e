"""Figures as a person reads them: counts, shares, durations, sizes; and names made safe to show."""

from __future__ import annotations

NOT_RECORDED = "not recorded"
_MAX_SHOWN_TEXT = 20_000


def show_count(value: float | None) -> str:
    """A whole number with thin groups: ``1 460``."""
    return NOT_RECORDED if value is None else f"{value:,.0f}".replace(",", "\u202f")


def count_of(number: int, noun: str) -> str:
    """``1 episode``, ``2 episodes``."""
    return f"{show_count(number)} {noun}{'' if number == 1 else 's'}"


def show_share(value: float | None, digits: int = 1) -> str:
    """A fraction in per cent: ``92.5 %``."""
    return NOT_RECORDED if value is None else f"{100 * value:.{digits}f}\u00a0%"


def show_figure(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits."""
    if value is None:
        return NOT_RECORDED
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}"


def show_duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``5 min 49 s``."""
    if seconds is None or seconds < 0:
        return NOT_RECORDED
    if seconds < 10:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60}\u00a0min"


def show_size(size_bytes: int | None) -> str:
    """Bytes in binary units."""
    if size_bytes is None:
        return NOT_RECORDED
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f}\u00a0{unit}" if unit == "B" else f"{value:.1f}\u00a0{unit}"
        value /= 1024
    return f"{value:.1f}\u00a0TiB"


def show_text(text: str) -> str:
    """``text`` with everything that is not printable written as an escape.

    Line feeds and tabs stay. Characters that turn the direction of writing around are not
    printable, so that no name can pretend to be another one.
    """
    cut = text if len(text) <= _MAX_SHOWN_TEXT else text[:_MAX_SHOWN_TEXT] + " …"
    if cut.isprintable():
        return cut
    return "".join(
        character
        if character.isprintable() or character in "\n\t\u00a0\u202f"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in cut
    )


def name_runs(ids: list[int], most: int = 24) -> str:
    """``0-3, 7, 9-11``: ascending numbers with runs drawn together."""
    runs: list[list[int]] = []
    for each in ids:
        if runs and each == runs[-1][1] + 1:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:most]]
    return ", ".join(texts) + (", …" if len(runs) > most else "")
