"""Wording: numbers of things in sentences."""

FILES_OR_DIRECTORIES = "file or directory", "files and directories"
"""Nouns for `count`."""


def count(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun: `1 image`, `1,204 images`.

    Args:
        number: number of things.
        one: noun, or end of the sentence, for one thing.
        several: the same for several; empty to add an s.
    """
    return f"{number:,} {choose(number, one, several or f'{one}s')}"


def choose(number: int, one: str, several: str) -> str:
    """Return the words for one thing or for several."""
    return one if number == 1 else several
