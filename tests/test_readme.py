"""What the README says can be typed, can be typed."""

import re
from pathlib import Path

import pytest
import typer

from labelscape.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("line", sorted(set(re.findall(r"(?:^|`)(labelscape [^`\n]+)", README, re.M))))
def test_commands_and_options_exist(line):
    words = line.split("  ")[0].split("#")[0].split()
    if words[1].startswith("--"):
        return
    assert words[1] in COMMANDS
    command, rest = COMMANDS[words[1]], words[2:]
    if hasattr(command, "commands"):  # a verb of verbs: data check
        assert rest[0] in command.commands
        command, rest = command.commands[rest[0]], rest[1:]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("-"):
            assert word in known, f"{words[1]} has no {word}"


def test_options_in_tables_exist():
    either = {o for verb in ("train", "map") for p in COMMANDS[verb].params for o in p.opts}
    for option in re.findall(r"`(--[a-z-]+|-o)[ `]", README):
        assert option in either


def test_python_uses_public_names():
    import labelscape

    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    compile(code, "README", "exec")
    for name in re.findall(r"\bls\.(\w+)", code):
        assert name in labelscape.__all__


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (Path(__file__).parent.parent / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", README, re.M):
        assert target in targets
