"""The page: a conversation with pictures and sounds, and beside it what is remembered."""

from typing import Any

import gradio as gr
from fastapi import FastAPI

from malmm.chat.web_events import Page
from malmm.chat.web_style import BUTTONS, CSS, THEME

HINT = "Ask, or add a picture or a sound with its caption"
PLACEHOLDER = "**What shall I remember?**\n\nAdd a picture or a sound, then ask about it, today or next week."


def build_page(page: Page) -> gr.Blocks:
    """The page's layout, and which event does what."""
    with gr.Blocks(title="malmm", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        name = gr.State("")
        head = gr.HTML(elem_id="head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                chat = gr.Chatbot(
                    elem_id="talk", show_label=False, buttons=[], placeholder=PLACEHOLDER, height=None,
                    allow_tags=False, latex_delimiters=[],
                )  # fmt: skip
                box = gr.MultimodalTextbox(
                    elem_id="box", show_label=False, placeholder=HINT, sources=["upload", "microphone"],
                    file_types=["image", "audio"], file_count="multiple", autofocus=True,
                )  # fmt: skip
                with gr.Row():
                    note = gr.Button("Remember without asking", size="sm", min_width=140, elem_id="note")
                    new = gr.Button("New conversation", size="sm", min_width=140, elem_id="new")
            with gr.Column(scale=5, min_width=320, elem_id="side"), gr.Tabs():
                with gr.Tab("Why"):
                    why = gr.HTML(elem_id="why")
                with gr.Tab("Bank"):
                    bank = gr.HTML(elem_id="bank")
                with gr.Tab("Memories"):
                    search = gr.Textbox(
                        elem_id="search", show_label=False, placeholder="Search by meaning and words",
                        submit_btn=True, container=False,
                    )  # fmt: skip
                    memories = gr.HTML(elem_id="memories", js_on_load=BUTTONS)
        all_of_it = [chat, why, bank, memories]
        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        blocks.load(page.load, None, [name, head, *all_of_it], **hidden)
        box.submit(page.turn, [box, name], [box, *all_of_it], **hidden)
        note.click(page.note, [box, name], [box, memories], **hidden)
        new.click(page.begin, None, [name, *all_of_it], **hidden)
        search.submit(page.find, search, memories, **hidden)
        memories.click(page.act, [search, name], all_of_it, **hidden)
    blocks.queue(default_concurrency_limit=8)
    return blocks


def mount_page(app: FastAPI, page: gr.Blocks) -> None:
    """Put the page at `/`. The gate has found out who asks."""
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth_dependency=lambda request: request.scope["user_name"],
        footer_links=[],
        ssr_mode=False,
        theme=THEME,
        css=CSS,
        run_history=False,
    )
