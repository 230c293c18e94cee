"""The language model as the memory's reader: what it is given to read, with the embedded tiny Llama."""

from pathlib import Path

import pytest
import torch

from malmm.chat.reader import CausalReader
from malmm.errors import InputError
from malmm.memory.recall import Recalled
from malmm.memory.record import Record, Terms
from malmm.memory.reflection import Reflection
from malmm.memory.settings import MemorySettings, ReflectionSettings, Templates

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(project: Path) -> str:
    return str(project / "assets/tiny/llm")


@pytest.fixture
def reader(folder: str) -> CausalReader:
    return CausalReader.load(folder, precision="fp32", device="cpu", max_new_tokens=8)


def test_it_writes_what_the_model_writes_after_the_prompt(reader: CausalReader) -> None:
    prompt = "Question: what color is the circle? Answer:"
    language = reader.language
    nothing = torch.empty(1, 0, language.width)
    assert reader.read(prompt) == language.generate(nothing, [prompt], max_new_tokens=8)[0]
    ids = torch.tensor([language.prompt_ids(prompt)])
    with torch.no_grad():
        new = language.causal.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)
    plain = language.tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
    assert reader.read(prompt) == plain.strip()


def test_a_chat_template_is_used_where_there_is_one(reader: CausalReader) -> None:
    tokenizer = reader.language.tokenizer
    tokenizer.chat_template = CHAT
    text = tokenizer.decode(reader.prompt_ids("is it red"))
    assert text == f"{tokenizer.bos_token}[user] is it red\n[assistant]\n"  # one bos, and the last line break
    assert isinstance(reader.read("is it red"), str)


def test_without_one_the_prompt_is_plain(reader: CausalReader) -> None:
    tokenizer = reader.language.tokenizer
    assert tokenizer.decode(reader.prompt_ids("is it red")) == f"{tokenizer.bos_token}is it red"


def test_a_prompt_that_is_too_long_is_refused_and_never_cut(reader: CausalReader) -> None:
    assert reader.longest == 256 - 8
    long = "red " * 400
    assert reader.fits("red") and not reader.fits(long)
    with pytest.raises(
        InputError, match=r"reads 248 and an answer: lower memory\.reflection\.max_characters"
    ):
        reader.read(long)


def test_a_second_pass_over_the_tiny_model_says_that_its_words_cannot_be_read(reader: CausalReader) -> None:
    """It was never taught to reason: the plumbing works, and nothing is made up from what it writes."""
    templates = Templates(
        instruction="notes",
        reminder="{number} {text}",
        reasoning="{reminders} {question} USED: ANSWER: NOT REMEMBERED",
    )
    settings = MemorySettings(reflection=ReflectionSettings(templates=templates))
    record = Record(
        1,
        "me",
        "a red circle",
        torch.ones(1).numpy(),
        "text",
        "user",
        "",
        None,
        None,
        0.0,
        0.0,
        0,
        0.0,
        False,
    )
    found = [Recalled(record, 1.0, Terms(1, 0, 0, 0), None, 1)]
    reflected = Reflection(settings).answer("what is red", found, reader, now=1.0)
    assert reflected.reasoning == reader.read(
        "notes\n<reminder>1 a red circle</reminder> what is red USED: ANSWER: NOT REMEMBERED"
    )
    assert reflected.problem is not None and not reflected.remembered and reflected.used == []
