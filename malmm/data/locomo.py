"""LoCoMo's conversations of many sessions and the questions about them (Maharana et al., ACL 2024).

The file is a list of samples. Of a sample this reads `sample_id`; `conversation`, with `speaker_a` and
`speaker_b`, the lists `session_<n>` of turns ({speaker, dia_id, text, and where a photo was shared its
blip_caption}) and their `session_<n>_date_time` ("1:56 pm on 8 May, 2023"); and `qa`, a list of {question,
answer or adversarial_answer, evidence, category}. `event_summary`, `observation` and `session_summary` were
made from the conversation by a language model and are not read.

What is known to be irregular in the published file is read as it is meant: several ids in one string of
evidence ("D8:6; D9:17"), a stray colon ("D:11:26"), zeros in front ("D30:05"), an id that no turn has, no
evidence at all, answers that are numbers, dates of sessions that are not there. Photos are not part of the
file: a turn has its caption in words.
"""

import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.data.memory_life import Item, MemoryQuestion, MemoryUser, Role
from malmm.errors import InputError

# The numbers' meaning is that of the official evaluation code; the paper orders the names otherwise.
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
_SESSION = re.compile(r"session_(\d+)")
_TIME = "%I:%M %p on %d %B, %Y"
_SECONDS = 60.0  # between two turns: the file dates sessions only


@dataclass(frozen=True)
class Locomo:
    """The samples of a file, each as a user whose questions follow the last session.

    An item's id is its `dia_id`, a question's kind its category. An adversarial question has no answer: what
    it asks for is not so; its evidence are the turns that mislead. dangling: ids of evidence that no turn
    has, which are left out.
    """

    users: list[MemoryUser]
    dangling: list[str]


def read_locomo(path: str | Path) -> Locomo:
    """Read a file in LoCoMo's format. Raises InputError naming what is missing or has another form."""
    path = Path(path)
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; name LoCoMo's locomo10.json") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: name LoCoMo's locomo10.json") from error
    if not isinstance(samples, list) or not samples:
        raise InputError(f"{path} holds no list of samples: name LoCoMo's locomo10.json")
    users: list[MemoryUser] = []
    dangling: list[str] = []
    for number, sample in enumerate(samples):
        try:
            user, missing = _read_sample(sample, number)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: sample {number} is not in LoCoMo's format ({type(error).__name__}: {error})"
            ) from error
        users.append(user)
        dangling += missing
    return Locomo(users, dangling)


def _read_sample(sample: dict[str, Any], number: int) -> tuple[MemoryUser, list[str]]:
    name = str(sample.get("sample_id", number))
    items = _read_sessions(sample["conversation"])
    places = {item.id: place for place, item in enumerate(items)}
    sessions = list(dict.fromkeys(item.conversation for item in items))
    after = (items[-1].time if items else 0.0) + _SECONDS
    questions, dangling = [], []
    for index, qa in enumerate(sample["qa"]):
        named = _evidence_ids(qa.get("evidence") or [])
        found = tuple(id for id in named if id in places)
        dangling += [f"{name} {id}" for id in named if id not in places]
        first = min((places[id] for id in found), default=len(items))
        kind = CATEGORIES.get(qa["category"], f"category {qa['category']}")
        answer = None if kind == "adversarial" else str(qa["answer"])
        distance = len(sessions) - sessions.index(items[first].conversation) if found else 0
        question = MemoryQuestion(
            f"{name} q{index}",
            sessions[-1] if sessions else "",
            after,
            kind,
            cue="",
            question=str(qa["question"]),
            answer=answer,
            evidence=found,
            conversations=distance,
            records=len(items) - first,
        )
        questions.append(question)
    return MemoryUser(name, items, questions), dangling


def _read_sessions(conversation: dict[str, Any]) -> list[Item]:
    """The turns in order; a session's date without the session is passed over."""
    numbers = sorted(int(match[1]) for key in conversation if (match := _SESSION.fullmatch(key)))
    items: list[Item] = []
    for number in numbers:
        turns = conversation[f"session_{number}"]
        if not turns:
            continue
        written = " ".join(str(conversation[f"session_{number}_date_time"]).split())
        time = datetime.datetime.strptime(written, _TIME).replace(tzinfo=datetime.UTC).timestamp()
        time = max(time, items[-1].time + _SECONDS if items else time)
        for place, turn in enumerate(turns):
            text = f"{turn['speaker']}: {turn['text']}"
            if turn.get("blip_caption"):
                text = f"{text} [shares {turn['blip_caption']}]"
            first = turn["speaker"] == conversation.get("speaker_a")
            when = time + place * _SECONDS
            role: Role = "user" if first else "assistant"
            items.append(Item(turn["dia_id"], f"session_{number}", place, when, role, text))
    return items


def _evidence_ids(evidence: Any) -> list[str]:
    """The ids that the strings name, each once, as `dia_id` writes them."""
    strings = evidence if isinstance(evidence, list) else [evidence]
    pairs = [pair for string in strings for pair in _EVIDENCE.findall(str(string))]
    return list(dict.fromkeys(f"D{int(session)}:{int(turn)}" for session, turn in pairs))
