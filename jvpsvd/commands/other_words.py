"""What to type instead of words that other programs have."""

from __future__ import annotations

import click

_INSTEAD = {
    **dict.fromkeys(("status", "progress"), "jvpsvd run --status RUN"),
    **dict.fromkeys(("plot", "show", "figures", "table"), "jvpsvd report RUN"),
    **dict.fromkeys(("resume", "continue"), "jvpsvd run …, as the run was begun"),
    **dict.fromkeys(("depths", "models"), "jvpsvd layers --model SPEC"),
    "diff": "jvpsvd compare RUN1 RUN2",
    "check": "jvpsvd verify RUN",
    "help": "jvpsvd --help",
}


class Commands(click.Group):
    """Commands, each by its name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, or say which one is meant."""
        instead = _INSTEAD.get(args[0]) if args else None
        if instead is not None:
            ctx.fail(f"No such command '{args[0]}'; it is '{instead}'.")
        return super().resolve_command(ctx, args)
