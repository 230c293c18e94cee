"""The `memory` section: the default file says what the code does, and nothing unknown passes."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from malmm.errors import InputError
from malmm.memory.settings import MemorySettings, Templates, load_memory_settings


def test_the_default_file_has_the_defaults_and_every_key(project: Path) -> None:
    written = yaml.safe_load((project / "configs/memory/default.yaml").read_text(encoding="utf-8"))["memory"]
    defaults = asdict(MemorySettings())
    del defaults["reflection"]["templates"]  # long: they stand in settings.py
    assert written == defaults
    assert load_memory_settings() == MemorySettings()


def test_the_file_for_an_instruction_tuned_reader(project: Path) -> None:
    settings = load_memory_settings(project / "configs/memory/instruct.yaml")
    assert settings.reflection.enabled and settings.reflection.second_pass and settings.reflection.reader
    assert settings.recall == MemorySettings().recall


def test_options_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("memory: {budget: 7, recall: {k: 3}, reflection: {templates: {instruction: Notes}}}")
    settings = load_memory_settings(path, ["memory.recall.k", "9", "memory.scoring.half_life_days=2"])
    assert (settings.budget, settings.recall.k) == (7, 9)
    assert settings.reflection.templates.instruction == "Notes"
    assert settings.scoring.weights().half_life == 2 * 86400


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("memory.recall.kk=3", "unknown key memory.recall.kk; the nearest known one is memory.recall.k"),
        ("memory.recall.k=0", "memory.recall.k is 0: set at least 1"),
        ("memory.recall.k=x", "must be a whole number"),
        ("memory.recall.min_relevance=2", "memory.recall.min_relevance is 2.0: set a number from 0 to 1"),
        ("memory.recall.hybrid=both", "rrf or embedding or bm25"),
        ("memory.recall.timezone=Mars/Base", "no time zone"),
        ("memory.recall.timezone=../etc", "no time zone"),
        ("memory.scoring.recency=-1", "memory.scoring.recency is -1.0: set at least 0"),
        ("memory.scoring.half_life_days=0", "half_life_days is 0.0: set a number above 0"),
        ("memory.scoring.relevance=.nan", "memory.scoring.relevance is nan"),
        ("memory.budget=-1", "memory.budget is -1: set at least 0"),
        ("run.seed=1", "unknown key run"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(option: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_memory_settings(options=[option])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("reminder", "{number} {text.__class__}", "{text.__class__}, which nothing fills in"),
        ("reminder", "{text}", "no {number}"),
        ("reminder", "{number} {text", "odd brace"),
        ("question", "{question}", "no {reminders}"),
        ("reasoning", "{reminders} {question}", "does not ask for a line USED:"),
        ("instruction", "{reminders}", "it may have: none"),
    ],
)
def test_templates_are_checked(name: str, template: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        Templates(**{name: template})
    assert f"memory.reflection.templates.{name}" in str(error.value)
    assert message in str(error.value)


def test_a_file_without_the_section(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("{}")
    with pytest.raises(InputError, match="no `memory` section"):
        load_memory_settings(path)
