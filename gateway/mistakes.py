"""What is wrong with the settings of a start: all of it at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """Where a setting was written, what is wrong with it and the fix; `key` names the setting, if it is one."""

    where: str
    problem: str
    fix: str
    key: str = ""

    def __str__(self) -> str:
        """One line."""
        return " ".join(f"{self.where}: {self.problem}; {self.fix}".split())


class SettingsError(Exception):
    """All mistakes of one start."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        """All of them, in the order they were found."""
        super().__init__(mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        """One line a mistake."""
        return "\n".join(map(str, self.mistakes))
