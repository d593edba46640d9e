"""Groups of commands whose help lists every command with its whole sentence.

The command-line library cuts what does not fit on a line; here it goes on in the next.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_WHOLE = 10_000


class WholeHelpGroup(TyperGroup):
    """A group that shortens nothing in its list of commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, wrapped."""
        rows = [
            (name, command.get_short_help_str(_WHOLE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
