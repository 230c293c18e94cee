"""Evaluating the long-term memory: what it finds of earlier conversations, and what is answered from it.

An online protocol: a user's conversations are lived through in a fresh store, each question is put to the
memory when it comes, and nothing of it is kept but that what was found counts as accessed. Beside the memory
as it is configured stand floors (memory_rows.py) and the ceiling, the right memory given. A question about a
picture is asked as in a conversation that has shown nothing yet: the picture that is found best comes back.
"""

import tempfile
from collections.abc import Sequence

from rich.progress import Progress

from extraction.encoder import Encoder
from malmm.data.locomo import Locomo
from malmm.data.memory_life import MemoryUser
from malmm.data.memory_world import MemoryWorld
from malmm.evaluate.answering import progress_bar
from malmm.evaluate.memory_answers import Answers, Heard, prompt_with_reminders
from malmm.evaluate.memory_embeddings import Embeddings
from malmm.evaluate.memory_online import Found, Online, Situation, for_evaluation
from malmm.evaluate.memory_report import locomo_report, world_report
from malmm.evaluate.memory_rows import EVIDENCE, LAST_TURNS, MEMORY, Find, ablations, by_recall, floors
from malmm.evaluate.memory_scores import MemoryPrediction
from malmm.evaluate.report import Report
from malmm.memory.settings import MemorySettings
from malmm.memory.store import MemoryStore, open_store
from malmm.models.dialogue import DialogueModel


def evaluate_memory(
    world: MemoryWorld,
    model: DialogueModel,
    encoder: Encoder,
    settings: MemorySettings,
    *,
    ablation: bool = False,
    progress: bool = True,
) -> Report:
    """Live through the world's conversations and answer its questions.

    ablation: also the recall built up term by term, as further rows.
    """
    settings = for_evaluation(settings)
    answers = Answers(model)
    with progress_bar(progress) as bar, tempfile.TemporaryDirectory() as folder:
        embeddings = Embeddings(encoder)
        captions = [item.text for user in world.users for item in user.items]
        questions = [q for user in world.users for q in user.questions]
        texts = [*captions, *(q.text for q in questions), *(q.question for q in questions)]
        pictures = [world.folder / i.picture for user in world.users for i in user.items if i.picture]
        embeddings.prepare(texts, pictures, bar)
        with open_store(f"{folder}/memory.db", encoder.width, encoder.identity()) as store:
            rows = _rows(store, embeddings, settings, ablation)
            online = Online(store, embeddings, settings, rows, world.folder)
            situations = _live(online, world.users, bar)
        noted = [
            (situation, row, found, _note(answers, embeddings, settings, situation, row, found))
            for situation in situations
            for row, found in {**situation.found, EVIDENCE: situation.evidence}.items()
        ]
        answers.answer_all(bar)
    predictions = [_prediction(situation, row, found, answers[key]) for situation, row, found, key in noted]
    return world_report(predictions, len(questions))


def evaluate_locomo(
    locomo: Locomo,
    encoder: Encoder,
    settings: MemorySettings,
    *,
    ablation: bool = False,
    progress: bool = True,
) -> Report:
    """Evidence recall at 5 and 10 of LoCoMo's questions, in all and by category; nothing is answered."""
    settings = for_evaluation(settings)
    with progress_bar(progress) as bar, tempfile.TemporaryDirectory() as folder:
        embeddings = Embeddings(encoder)
        texts = [event.text for user in locomo.users for event in user.timeline()]
        embeddings.prepare(texts, [], bar)
        with open_store(f"{folder}/memory.db", encoder.width, encoder.identity()) as store:
            online = Online(store, embeddings, settings, _rows(store, embeddings, settings, ablation))
            situations = _live(online, locomo.users, bar)
    predictions = [
        _prediction(situation, row, found, None)
        for situation in situations
        for row, found in situation.found.items()
        if situation.question.evidence
    ]
    asked = sum(len(user.questions) for user in locomo.users)
    return locomo_report(predictions, asked, len(locomo.dangling), encoder.config.context_length)


def _rows(
    store: MemoryStore, embeddings: Embeddings, settings: MemorySettings, ablation: bool
) -> dict[str, Find]:
    rows = {MEMORY: by_recall(store, embeddings, settings), **floors(store)}
    if ablation:
        parts = ablations(settings).items()
        rows |= {name: by_recall(store, embeddings, part) for name, part in parts}
    return rows


def _live(online: Online, users: Sequence[MemoryUser], bar: Progress) -> list[Situation]:
    task = bar.add_task("remembering", total=sum(len(user.questions) for user in users))
    situations = []
    for user in users:
        for situation in online.live(user):
            situations.append(situation)
            bar.advance(task)
    return situations


def _note(
    answers: Answers,
    embeddings: Embeddings,
    settings: MemorySettings,
    situation: Situation,
    row: str,
    found: Found,
) -> object:
    """Note what the model is asked in this row -> the key of its answer."""
    question = situation.question
    said = embeddings.embed_text(question.question)
    if not question.cue:
        ids = tuple(record.id for record in found.records)[: settings.recall.k]
        best = found.records[: settings.recall.k]
        prompt = prompt_with_reminders(answers.model, question.question, best, settings, situation.now)
        return answers.ask((question.id, "told", ids), question.question, (), prompt)
    if row == LAST_TURNS and situation.heard:
        turns = (*situation.heard, Heard(situation.heard[-1].vision, said))
        return answers.ask((question.id, row), question.question, turns)
    if found.picture is not None:
        caption = embeddings.embed_text(found.picture.text)
        turns = (Heard(found.picture.embedding, caption), Heard(found.picture.embedding, said))
        return answers.ask((question.id, found.picture.id), question.question, turns)
    if situation.present is not None:  # nothing is remembered: the question meets the picture that is there
        turns = (situation.present, Heard(situation.present.vision, said))
        return answers.ask((question.id, "present"), question.question, turns)
    return answers.ask(
        (question.id, "nothing"), question.question, (), answers.model.prompt(question.question)
    )


def _prediction(situation: Situation, row: str, found: Found, said: str | None) -> MemoryPrediction:
    question = situation.question
    return MemoryPrediction(
        row=row,
        user=situation.user,
        question_id=question.id,
        kind=question.kind,
        conversations=question.conversations,
        question=question.text,
        answer=question.answer,
        evidence=question.evidence,
        found=tuple(found.items),
        prediction=said,
    )
