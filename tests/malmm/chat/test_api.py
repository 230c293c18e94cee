"""The OpenAI-compatible endpoint of a running server, asked over HTTP."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from malmm.chat.api_messages import Message, read_turns
from malmm.chat.loading import load_session
from malmm.chat.session import ChatSession
from malmm.data.mini import draw, make_world_item
from malmm.data.mini_dialogue import Dialogue
from malmm.data.mini_sound import scene_sound, write_sound
from malmm.errors import InputError


class World:
    """A picture of the mini world with its dialogue."""

    def __init__(self, index: int, folder: Path) -> None:
        self.path = folder / f"{index}.png"
        _, self.scene, dialogue = make_world_item("val", index)
        self.dialogue: Dialogue = dialogue
        self.questions = [round_.question for round_ in dialogue.rounds]
        draw(self.scene).save(self.path)

    def opening(self, question: int = 0) -> dict[str, Any]:
        """A message with the caption, the picture and a question."""
        parts = [text(self.dialogue.caption), picture(self.path), text(self.questions[question])]
        return {"role": "user", "content": parts}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def picture(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The stream's events; the format itself is checked to the byte."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines[:-1])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    folder = tmp_path_factory.mktemp("worlds")
    return [World(index, folder) for index in range(3)]


@pytest.fixture(scope="module")
def reference() -> ChatSession:
    """The same model in this process, without a long-term memory."""
    return load_session()


def expected(reference: ChatSession, world: World, rounds: int) -> list[str]:
    reference.reset()
    reference.show(world.path, world.dialogue.caption)
    return [reference.ask(question) for question in world.questions[:rounds]]


def test_a_conversation_by_its_history(server: Any, worlds: list[World], reference: ChatSession) -> None:
    """Each request sends all that was said; the memory bank goes on instead of beginning anew."""
    world, answers, names = worlds[0], [], set()
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    for number in range(4):
        messages.append(world.opening() if number == 0 else user(world.questions[number]))
        response = server.ask("ana", {"messages": messages})
        messages.append(response.json()["choices"][0]["message"])
        answers.append(answer_of(response))
        names.add(response.headers["x-conversation"])
    assert answers == expected(reference, world, 4)
    assert len(names) == 1

    regenerated = server.ask("ana", {"messages": messages[:-3]})  # the second question once more
    assert regenerated.headers["x-conversation"] not in names
    again = server.ask("ana", {"messages": messages[:-1]})
    assert again.status_code == 200 and again.headers["x-conversation"] not in names


def test_a_completion_has_openais_form(server: Any, worlds: list[World]) -> None:
    body = server.ask("bob", {"messages": [worlds[0].opening()]}).json()
    (choice,) = body["choices"]
    assert body["object"] == "chat.completion" and body["model"] == "malmm" and body["id"]
    assert choice["index"] == 0 and choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > usage["completion_tokens"] > 0


def test_a_stream_joins_to_the_answer(server: Any, worlds: list[World], reference: ChatSession) -> None:
    body = {"messages": [worlds[1].opening()], "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(server.ask("carol", body))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == expected(reference, worlds[1], 1)[0]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


def test_what_was_shown_is_known_in_another_conversation_and_to_nobody_else(
    server: Any, worlds: list[World]
) -> None:
    shown = answer_of(server.ask("dora", {"messages": [worlds[1].opening()]}))
    asked = {"messages": [user(worlds[1].questions[0])]}
    assert answer_of(server.ask("dora", asked)) == shown
    refused = server.ask("emil", asked)
    assert refused.status_code == 400
    assert "no picture yet" in refused.json()["error"]["message"]


def test_a_named_conversation_needs_no_history(
    server: Any, worlds: list[World], reference: ChatSession
) -> None:
    world = worlds[2]
    first, second, third = expected(reference, world, 3)
    assert answer_of(server.ask("fritz", {"messages": [world.opening()]}, **{"x-conversation": "c"})) == first
    named = {"messages": [user(world.questions[1])], "metadata": {"conversation": "c", "other": 1}}
    assert answer_of(server.ask("fritz", named)) == second
    assert answer_of(server.ask("fritz", {"messages": [user(world.questions[2])], "user": "c"})) == third


def test_the_name_that_an_answer_gives_goes_on(server: Any, worlds: list[World]) -> None:
    named = {"messages": [worlds[2].opening()], "metadata": {"conversation": "Über 猫\n"}}
    for body in (named, {"messages": [worlds[2].opening()]}):
        name = server.ask("fritz", body).headers["x-conversation"]
        response = server.ask("fritz", {"messages": QUESTION}, **{"x-conversation": name})
        assert response.status_code == 200 and response.headers["x-conversation"] == name
    too_long = server.ask("fritz", {"messages": QUESTION, "user": "a" * 201})
    assert too_long.status_code == 400


def test_requests_at_once_do_not_mix(server: Any, worlds: list[World], reference: ChatSession) -> None:
    """Three conversations side by side, each with its own picture: as one after the other."""

    def hold(world: World) -> list[str]:
        messages: list[dict[str, Any]] = []
        answers = []
        for number in range(3):
            messages.append(world.opening() if number == 0 else user(world.questions[number]))
            response = server.ask(
                "gina", {"messages": messages, "metadata": {"conversation": str(world.path)}}
            )
            answers.append(answer_of(response))
            messages.append(response.json()["choices"][0]["message"])
        return answers

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(hold, worlds))
    assert found == [expected(reference, world, 3) for world in worlds]


def test_a_client_that_leaves_stops_its_turn_only(server: Any, worlds: list[World]) -> None:
    body = {"model": "malmm", "messages": [worlds[0].opening()], "stream": True, "user": "left"}
    headers = {"authorization": f"Bearer {server.keys['hugo']}"}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200
    assert answer_of(server.ask("hugo", {"messages": [worlds[0].opening()], "user": "left"}))


def test_a_sound(server: Any, worlds: list[World], tmp_path: Path) -> None:
    write_sound(tmp_path / "scene.wav", scene_sound(worlds[0].scene))
    data = base64.b64encode((tmp_path / "scene.wav").read_bytes()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    assert answer_of(server.ask("hugo", {"messages": [user([sound, text(worlds[0].questions[0])])]}))


def test_max_tokens_cuts_the_answer(server: Any, worlds: list[World]) -> None:
    body = {"messages": [worlds[0].opening()], "max_completion_tokens": 1}
    response = server.ask("hugo", body)
    assert response.json()["usage"]["completion_tokens"] <= 1
    assert response.json()["choices"][0]["finish_reason"] == "length"


def test_models(server: Any) -> None:
    headers = {"authorization": f"Bearer {server.keys['ana']}"}
    listed = httpx.get(f"{server.url}/v1/models", headers=headers).json()
    assert listed["object"] == "list" and [model["id"] for model in listed["data"]] == ["malmm"]
    assert httpx.get(f"{server.url}/v1/models/malmm", headers=headers).json() == listed["data"][0]


BROKEN = base64.b64encode(b"no picture").decode()
QUESTION = [user("what is it?")]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"messages": QUESTION, "model": "gpt-5"}, 404, "the only one is 'malmm'"),
        ({"messages": []}, 400, "messages"),
        ({"messages": QUESTION, "n": 2}, 400, "n: "),
        ({"messages": QUESTION, "tools": [{}]}, 400, "tools"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages.0.role"),
        ({"messages": [user([{"type": "video"}])]}, 400, "messages.0.content"),
        (
            {"messages": [*QUESTION, {"role": "assistant", "content": "a"}]},
            400,
            "last message must be the user's",
        ),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}])]},
            400,
            "not fetched from the net",
        ),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}])]},
            400,
            "not valid base64",
        ),
        (
            {
                "messages": [
                    user(
                        [
                            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BROKEN}"}},
                            text("a?"),
                        ]
                    )
                ]
            },
            400,
            "the picture picture.png cannot be read",
        ),
    ],
)
def test_mistakes_in_openais_format(server: Any, body: dict[str, Any], status: int, words: str) -> None:
    response = server.ask("emil", body)
    assert response.status_code == status
    error = response.json()["error"]
    assert words in error["message"] and error["type"] == "invalid_request_error"
    assert {"param", "code"} <= {*error}


def test_a_stream_that_cannot_begin_is_an_error_and_no_stream(server: Any) -> None:
    response = server.ask("emil", {"messages": QUESTION, "stream": True})
    assert response.status_code == 400 and "no picture yet" in response.json()["error"]["message"]


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic key-of-ana"])
def test_without_a_key_nothing(server: Any, key: str) -> None:
    for method, path in (("GET", "models"), ("POST", "chat/completions")):
        response = httpx.request(method, f"{server.url}/v1/{path}", headers={"authorization": key}, json={})
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"


def test_what_is_not_there_and_what_is_too_large(server: Any) -> None:
    headers = {"authorization": f"Bearer {server.keys['ana']}", "content-type": "application/json"}
    url = f"{server.url}/v1/chat/completions"

    def pieces() -> Any:  # without a Content-Length
        for _ in range(5):
            yield b" " * 2**20

    answers = [
        (404, httpx.get(f"{server.url}/v1/embeddings", headers=headers)),
        (405, httpx.get(url, headers=headers)),
        (400, httpx.post(url, headers=headers, content="{")),
        (415, httpx.post(url, headers={**headers, "content-type": "text/plain"}, content="{}")),
        (413, httpx.post(url, headers=headers, content=b" " * (3 * 2**20))),
        (413, httpx.post(url, headers=headers, content=pieces())),
    ]
    for status, response in answers:
        assert response.status_code == status, response.text
        assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "question", "captions"),
    [
        ("what is it?", "what is it?", []),
        (["P", "what?"], "what?", [None]),
        (["two shapes", "P", "what?"], "what?", ["two shapes"]),
        (["what?", "P"], "what?", [None]),
        (["one", "P", "P", "two", "P", "which?"], "which?", ["one", None, "two"]),
        (["so:", "one", "P", "which?", "and why?"], "so:\nwhich?\nand why?", ["one"]),
    ],
)
def test_what_of_a_message_is_the_question(content: Any, question: str, captions: list[str | None]) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BROKEN}"}}
    if isinstance(content, list):
        content = [image if part == "P" else text(part) for part in content]
    (turn,) = read_turns([Message(role="user", content=content)])
    assert turn.text == question
    assert [item.caption for item in turn.items] == captions
    assert all(item.content == b"no picture" for item in turn.items)


def test_a_message_without_words_asks_nothing() -> None:
    with pytest.raises(InputError, match="asks nothing"):
        read_turns([Message(role="user", content="  ")])
