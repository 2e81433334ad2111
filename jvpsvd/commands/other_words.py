"""What to type instead of words that other programs have, or that shells make of patterns."""

from __future__ import annotations

from collections.abc import Sequence

import click

from jvpsvd.commands.option_values import names

_INSTEAD = {
    **dict.fromkeys(("status", "progress"), "jvpsvd run --status RUN"),
    **dict.fromkeys(("plot", "show", "figures", "table"), "jvpsvd report RUN"),
    **dict.fromkeys(("resume", "continue"), "jvpsvd run …, as the run was begun"),
    **dict.fromkeys(("depths", "models"), "jvpsvd layers --model SPEC"),
    "diff": "jvpsvd compare RUN1 RUN2",
    "check": "jvpsvd verify RUN",
    "help": "jvpsvd --help",
}


class OneWordEach(click.Command):
    """A command whose options take one word each; it says how several are written."""

    allow_extra_args = True  # it refuses them itself

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what was typed, and refuse a word too many with what to type."""
        typed = list(args)
        extra = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            self._refuse_repeated_lists(ctx, typed)
            if extra:
                ctx.fail(self._say_how(typed, extra[0]))
        return extra

    def _refuse_repeated_lists(self, ctx: click.Context, typed: Sequence[str]) -> None:
        """Refuse a list in several options, of which only the last would count."""
        for option in self.params:
            given = [word for word in typed if word.partition("=")[0] in option.opts]
            if option.callback is names and len(given) > 1:
                ctx.fail(f"{option.opts[0]} was given twice; join the names: {option.opts[0]} A,B.")

    def _say_how(self, typed: Sequence[str], extra: str) -> str:
        """Return what to say of a word too many."""
        takes_word = {
            name: option
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        before, words = "", [""]
        for word in typed:
            if word.startswith("-"):
                if before and extra in words[1:]:
                    break
                name, _, value = word.partition("=")
                before, words = name if name in takes_word else "", [value] if value else []
            else:
                words.append(word)
        if not before or extra not in words[1:]:
            return f"Got unexpected extra argument ({extra})."
        if takes_word[before].callback is names:
            joined = ",".join(part for word in words for part in word.split(",") if part)
            return f"{before} takes names with commas between them: {before} {joined}."
        return (
            f"{before} takes one word, and '{extra}' is another; put a pattern, or what has "
            "spaces, in quotes."
        )


class Commands(click.Group):
    """Commands, each by its name."""

    command_class = OneWordEach

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, or say which one is meant."""
        instead = _INSTEAD.get(args[0]) if args else None
        if instead is not None:
            ctx.fail(f"No such command '{args[0]}'; it is '{instead}'.")
        return super().resolve_command(ctx, args)
