"""A store without files or index: the interface's words written out, for tests of what is built on it."""

import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from malmm.errors import InputError
from malmm.memory.record import Draft, Filters, Match, Query, Record, Terms
from malmm.memory.scoring import score_terms
from malmm.memory.store import ALL, MemoryStore


class PlainStore(MemoryStore):
    """Records in a dictionary; every search looks at all of them."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._records: dict[int, Record] = {}
        self._absorbed: dict[int, list[Record]] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0

    def add(self, drafts: Sequence[Draft]) -> list[int]:
        records = [self._record(draft) for draft in drafts]
        for record in records:
            self._records[record.id] = record
        return [record.id for record in records]

    def _record(self, draft: Draft) -> Record:
        vector = np.asarray(draft.embedding, dtype=np.float64)
        length = np.linalg.norm(vector)
        if vector.shape != (self.width,) or not 0 < length < np.inf:
            raise InputError(f"an embedding of shape {vector.shape} does not fit the store")
        created = time.time() if draft.created is None else draft.created
        number = self._numbers.setdefault(draft.user, len(self._numbers) + 1)
        self._last += 1
        return Record(
            id=(number << 32) + self._last,
            user=draft.user,
            text=draft.text,
            embedding=(vector / length).astype(np.float32),
            modality=draft.modality,
            role=draft.role,
            conversation=draft.conversation,
            turn=draft.turn,
            media=draft.media,
            created=created,
            accessed=created if draft.accessed is None else draft.accessed,
            access_count=draft.access_count,
            saliency=draft.saliency,
            pinned=draft.pinned,
            size=draft.size,
        )

    def get(self, user: str, ids: Sequence[int]) -> list[Record]:
        own = {record.id: record for record in self._records.values() if record.user == user}
        return [own[id] for id in ids if id in own]

    def _seen(self, user: str | None, filters: Filters, now: float = np.inf) -> list[Record]:
        def fits(record: Record) -> bool:
            return (
                (user is None or record.user == user)
                and record.created <= now
                and all(
                    getattr(filters, name) in (None, getattr(record, name))
                    for name in ("conversation", "modality", "role", "pinned")
                )
                and (filters.exclude_conversation is None or
                     record.conversation != filters.exclude_conversation)
                and (filters.after is None or record.created >= filters.after)
                and (filters.before is None or record.created < filters.before)
            )  # fmt: skip

        return [record for record in self._records.values() if fits(record)]

    def records(
        self,
        user: str,
        filters: Filters = ALL,
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = True,
    ) -> list[Record]:
        found = sorted(self._seen(user, filters), key=lambda r: (r.created, r.id), reverse=newest_first)
        return found[offset : offset + limit]

    def count(self, user: str | None = None) -> int:
        return len(self._seen(user, ALL))

    def users(self) -> list[str]:
        return sorted({record.user for record in self._records.values()})

    def search(self, query: Query) -> list[Match]:
        ids = [record.id for record in self._seen(query.user, query.filters, query.now)]
        matches = self._match(query, ids)
        return sorted(matches, key=lambda match: (-match.score, match.record.id))[: query.k]

    def score(self, query: Query, ids: Sequence[int]) -> list[Match]:
        return self._match(query, [record.id for record in self.get(str(query.user), ids)])

    def _match(self, query: Query, ids: Sequence[int]) -> list[Match]:
        records = [self._records[id] for id in ids]
        if not records:
            return []
        most = max(record.access_count for record in self._seen(query.user, query.filters, query.now))
        scores, terms = score_terms(
            np.array([record.embedding @ query.embedding for record in records], dtype=np.float64),
            np.array([record.created for record in records]),
            np.array([record.accessed for record in records]),
            np.array([record.access_count for record in records]),
            np.array([1.0 if record.pinned else record.saliency for record in records]),
            query.now,
            query.weights,
            most,
        )
        return [
            Match(record, float(score), Terms(*map(float, row)))
            for record, score, row in zip(records, scores, terms, strict=True)
        ]

    def search_text(
        self, user: str, text: str, k: int = 10, filters: Filters = ALL
    ) -> list[tuple[int, float]]:
        """By how many of the text's words a record has, each counted by how few records have it."""
        seen = self._seen(user, filters)
        words = {record.id: set(re.findall(r"\w+", record.text.lower())) for record in seen}
        scored = []
        for id, own in words.items():
            shared = set(re.findall(r"\w+", text.lower())) & own
            score = sum(np.log1p(len(seen) / sum(w in other for other in words.values())) for w in shared)
            if shared:
                scored.append((id, float(score)))
        return sorted(scored, key=lambda item: (-item[1], item[0]))[:k]

    def touch(self, user: str, ids: Sequence[int], now: float | None = None) -> None:
        moment = time.time() if now is None else now
        for record in self.get(user, ids):
            self._records[record.id] = replace(record, accessed=moment, access_count=record.access_count + 1)

    def update(
        self,
        user: str,
        id: int,
        *,
        text: str | None = None,
        saliency: float | None = None,
        pinned: bool | None = None,
    ) -> bool:
        changes = {"text": text, "saliency": saliency, "pinned": pinned}
        for record in self.get(user, [id]):
            given = {name: value for name, value in changes.items() if value is not None}
            self._records[id] = replace(record, **given)
        return bool(self.get(user, [id]))

    def delete(self, user: str, ids: Sequence[int]) -> int:
        found = self.get(user, ids)
        for record in found:
            del self._records[record.id]
            self._absorbed.pop(record.id, None)
        return len(found)

    def merge(self, user: str, budget: int) -> int:
        gone = 0
        while self.count(user) > budget:
            pairs = self._neighbours(user)
            if not pairs:
                break
            old, new = max(pairs, key=lambda pair: float(pair[0].embedding @ pair[1].embedding))
            self._join(old, new)
            gone += 1
        return gone

    def _neighbours(self, user: str) -> list[tuple[Record, Record]]:
        pairs: list[tuple[Record, Record]] = []
        for modality in ("text", "vision", "audio", "video"):
            line = self.records(user, Filters(modality=modality), limit=10**9, newest_first=False)
            pairs += [(a, b) for a, b in itertools.pairwise(line) if not (a.pinned or b.pinned)]
        return pairs

    def _join(self, old: Record, new: Record) -> None:
        main = old if old.size > new.size else new
        mean = old.embedding * old.size + new.embedding * new.size
        joined = replace(
            main,
            id=old.id,
            embedding=(mean / np.linalg.norm(mean)).astype(np.float32),
            access_count=old.access_count + new.access_count,
            saliency=max(old.saliency, new.saliency),
            size=old.size + new.size,
        )
        parts = [part for one in (old, new) for part in self._absorbed.pop(one.id, [one])]
        del self._records[new.id]
        self._records[old.id] = joined
        self._absorbed[old.id] = sorted(parts, key=lambda record: record.created)

    def merged(self, user: str, id: int) -> list[Record]:
        return list(self._absorbed.get(id, [])) if self.get(user, [id]) else []

    def close(self) -> None:
        self._records.clear()
