"""Error types, each message one sentence: what was found, what was expected, what to do.

Every error a user can cause is a `LabelscapeError`; the command line prints its text and nothing else.
`assert` is for our own mistakes.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class LabelscapeError(Exception):
    """Something a user can fix. `exit_code` is what the command line ends with; `why` the reason alone, as a
    part of a sentence, for those who do something else than what the message tells to do.
    """

    exit_code = 1
    why = ""


# An OSError too: callers who expect one from reading a file need not know our errors.
class BadFile(LabelscapeError, OSError):
    """A file that is missing, truncated, of another format, or cannot be written."""


class NoWeights(BadFile):
    """Published weights that are not on this machine and cannot be fetched. `typed` is the message with the
    options of the command line.
    """

    def __init__(self, name: str, why: str, *, file: bool = True, other: str = "") -> None:
        said = f"The published weights of {name} are not on this machine and cannot be fetched ({why}). "
        either = " for a local copy" if file else " to start from random weights"
        python = "pretrained=False" + " and weights=FILE" * file
        typed = "-o options.pretrained=false" + " -o options.weights=FILE" * file
        super().__init__(f"{said}Pass {python}{either}{other}.")
        # Written out, not translated: the library names keywords where the command line has -o KEY=VALUE.
        self.typed = f"{said}Give {typed}{either}{other}."


class BadInput(LabelscapeError, ValueError):
    """Readable input that does not fit: wrong bands, no overlap, unknown class values, nothing labelled."""


def is_out_of_memory(error: BaseException) -> bool:
    """Python's own error, a GPU's, or torch's on a processor, which is known by its words alone."""
    # By name: torch is not imported for this, and its own error is no MemoryError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


class Refused(BadInput):
    """A scene that does not fit the model it is to be mapped with."""


class BadOption(LabelscapeError, ValueError):
    """An option or a recipe that cannot work, whatever the data."""

    exit_code = 2


class WrongType(BadOption, TypeError):
    """A value of a type that cannot work: an array where a path is expected."""


class UnknownName(BadOption, LookupError):
    """An unknown name: the message suggests the nearest known one and lists all. `nearest` is None without
    one.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = [str(k) for k in known]
        nearest = nearest_name(str(name), known)
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        # As they are typed in a list: a name with a comma in double quotes.
        several = ", ".join(f'"{one}"' if "," in one else one for one in known)
        super().__init__(f"No {kind} is called {name!r}.{hint} Known: {several or 'none'}.")
        self.kind, self.name, self.nearest = kind, name, nearest


def check_seed(seed: int) -> None:
    """Raises BadOption for a negative seed: NumPy's generators take none."""
    if seed < 0:
        raise BadOption(f"`seed={seed}` must be a whole number of at least 0.")


def check_names(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises UnknownName, with the nearest known name, for the first name given that is not known."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UnknownName(kind, name, known)


LIMITS = {
    "greater_than": ("above {}", "gt"),
    "greater_than_equal": ("at least {}", "ge"),
    "less_than": ("below {}", "lt"),
    "less_than_equal": ("at most {}", "le"),
    "literal_error": ("one of {}", "expected"),
    "too_long": ("a list of no more than {} values", "max_length"),
    "too_short": ("a list of no fewer than {} values", "min_length"),
    # The one pattern of a recipe is that of names: an expression would say less.
    "string_pattern_mismatch": ("one word of letters, digits and hyphens", "pattern"),
}
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping, such as {'name': value}",
    "model": "a mapping, such as {'name': value}",
    "finite": "a finite number",
}


def refused_setting(problem: Mapping[str, Any]) -> str:
    """A sentence for a value that pydantic refused, from its details: `tile_size=0` must be at least 1."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"`{where}` is missing."
    # Cut short: an array of pixels may stand where a number was expected.
    return f"`{where}={reprlib.repr(problem['input'])}` must be {expected_of(problem)}."


def expected_of(problem: Mapping[str, Any]) -> str:
    """What pydantic expected in place of a value: `at least 1`."""
    kind = problem["type"]
    if kind in LIMITS:
        words, limit = LIMITS[kind]
        value = problem["ctx"][limit]
        return words.format(value if isinstance(value, str) else f"{value:g}")
    # All other kinds in pydantic's own words, which begin alike.
    return KINDS.get(kind.partition("_")[0]) or re.sub("^Input should be ", "", problem["msg"])


SYNONYMS = {
    "lr": "rate",
    "learning": "rate",
    "learning_rate": "rate",
    "batch_size": "batch",
    "epochs": "steps",
    "max_epochs": "steps",
    "iterations": "steps",
    "max_steps": "steps",
    "patch_size": "crop",
    "chip_size": "crop",
    "tile_size": "crop",
    "model": "network",
    "architecture": "network",
    "encoder_name": "backbone",
    "encoder_weights": "pretrained",
    "gpus": "device",
    "accelerator": "device",
    "fp16": "16",
    "float16": "16",
    "half": "16",
    "16-mixed": "16",
    "bfloat16": "bf16",
    "bf16-mixed": "bf16",
    "fp32": "32",
    "float32": "32",
    "validation": "val",
    "training": "train",
    "testing": "test",
}
"""Names that other software uses -> ours, where spelling alone would suggest a wrong name."""


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant, or None: a synonym of other software, another spelling (`unet`,
    `smp/Unet`), a typing error, or a name that shares words (`learning_rate`, `rate`).
    """
    # Before spelling: by letters alone `lr` or `gpus` would be taken for something else.
    if SYNONYMS.get(name.lower()) in known:
        return SYNONYMS[name.lower()]
    # Reversed: of names that are equal in lower case, the first known one wins.
    lower = {key.lower(): key for key in reversed(known)}
    lower |= {key.lower().rpartition("/")[2]: key for key in reversed(known)}

    synonyms = {theirs: ours for theirs, ours in SYNONYMS.items() if ours in known}

    def close(names: Mapping[str, str], cutoff: float) -> str | None:
        found = difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
        return names[found[0]] if found else None

    # Words before loose spelling: by letters alone `lerning_rate` would be taken for `base_rate`.
    return close(synonyms | lower, 0.8) or _sharing_words(name, known) or close(lower, 0.5)


def _sharing_words(name: str, known: Sequence[str]) -> str | None:
    """The known name whose words are all in `name`, or that has all words of `name`; most words win."""
    asked, best = _words(name), (0, None)
    for key in known:
        words = _words(key)
        # Of two or three letters all count: `fc` is no misspelt `fcm`.
        common = [
            word
            for word in words
            if difflib.get_close_matches(word, asked, n=1, cutoff=0.8 if len(word) > 3 else 1)
        ]
        # All words of the shorter name: one shared word, as of `base_rate` and `base_steps`, means nothing.
        if len(common) == min(len(words), len(asked)) and len(common) > best[0]:
            best = len(common), key
    return best[1]


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def joined(parts: Sequence[str], known: Callable[[str], bool]) -> tuple[str, ...]:
    """Names that were separated at commas which belong to them, put together again where the parts are not
    known and the whole is.
    """
    if all(map(known, parts)):
        return tuple(parts)
    found: list[str] = []
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((n for n in ends for comma in (",", ", ") if known(comma.join(parts[:n]))), 1)
        whole = next((c.join(parts[:end]) for c in (",", ", ") if known(c.join(parts[:end]))), parts[0])
        found.append(whole)
        parts = parts[end:]
    return tuple(found)


def first_line(error: BaseException, most: int = 200) -> str:
    """What another library's error says, as a part of a sentence; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
