"""What the help of the program and of its verbs says is so."""

from __future__ import annotations

import importlib
import shlex

import pytest

from orchestrator.__main__ import GROUPS, VERBS, help_text, main, make_parser


def examples(text: str) -> list[list[str]]:
    """The arguments of the commands in a help text; what stands behind `&&` or `>` is another program's."""
    lines = [line.strip().split("   ")[0].split(" && ")[0].split(" > ")[0] for line in text.splitlines()]
    commands = [shlex.split(line) for line in lines]
    return [words[3:] for words in commands if words[:3] == ["python", "-m", "orchestrator"]]


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_every_verb_are_understood(verb):
    text = importlib.import_module(f"orchestrator.commands.{verb}").__doc__ or ""
    _, _, below = text.partition("\nexamples:\n")
    below, _, _ = below.partition("\n\n")
    found = examples(below)
    assert found and len(found) == len(below.splitlines())
    for name, *rest in found:
        assert name == verb
        make_parser(verb).parse_all(rest)


def test_the_first_session_is_understood():
    found = examples(help_text())
    assert len(found) >= 3
    for verb, *rest in found:
        make_parser(verb).parse_all(rest)


def test_help_names_every_verb_once_and_every_option_says_what_it_does():
    assert sum(len(verbs) for verbs in GROUPS.values()) == len(VERBS)
    for verb in VERBS:
        parser = make_parser(verb)
        assert all(action.help for action in parser._actions), verb


def test_help_however_it_is_asked_for(capsys):
    assert (main(["help"]), main(["--help"]), main([])) == (0, 0, 2)
    assert capsys.readouterr().out.count("a first session") == 3
    with pytest.raises(SystemExit, match="0"):
        main(["help", "ls"])
    assert capsys.readouterr().out.startswith("usage: orchestrator ls")


def test_an_option_before_the_verb_is_answered(capsys):
    assert main(["--store", "there", "status"]) == 2
    assert "options such as --store come after it" in capsys.readouterr().err
