"""How the page looks: Gradio's theme with the system's own fonts, and what it leaves open."""

import gradio as gr

FONT = ["ui-sans-serif", "system-ui", "sans-serif"]  # none is fetched
THEME = gr.themes.Soft(
    primary_hue="violet",
    secondary_hue="violet",
    neutral_hue="zinc",
    radius_size="lg",
    font=FONT,
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    block_shadow="none",
    block_border_width="1px",
    body_text_color_subdued="*neutral_500",
    input_placeholder_color="*neutral_500",
)

CSS = """
.gradio-container { max-width: 1360px !important; padding: 0 !important }
.gradio-container .app { padding: 12px 24px 8px !important }
footer { display: none !important }
#head, #head .html-container { padding: 0 }
#head .bar-line { display: flex; align-items: center; gap: 14px; flex-wrap: wrap }
#head h1 { font-size: 22px; letter-spacing: -.02em; margin: 0; font-weight: 700 }
#head .claim { color: var(--body-text-color-subdued); flex: 1 }
#head form { display: contents }
#head a, #head button { font: inherit; font-size: 14px; color: var(--body-text-color); cursor: pointer;
  padding: 6px 12px; border: 1px solid var(--border-color-primary); border-radius: 999px;
  background: var(--block-background-fill); text-decoration: none; line-height: 20px;
  box-shadow: none; font-weight: 400; margin: 0 }
#head a:hover, #head button:hover { border-color: var(--color-accent) }
#head .who { font-weight: 600 }
#talk { height: calc(100vh - 226px) !important; min-height: 340px }
#talk .top-panel { display: none }  /* empties the picture of the conversation, not the conversation */
#talk img { max-height: 220px; max-width: 100%; border-radius: 12px; margin: 0 }
#talk audio { width: 260px; max-width: 100% }
#side { position: sticky; top: 12px }
#side .html-container { padding: 0 }
.panel { max-height: calc(100vh - 122px); overflow-y: auto; padding: 2px 6px 2px 2px }
#memories .panel { max-height: calc(100vh - 182px) }
.panel .soft, .panel p.soft { color: var(--body-text-color-subdued); font-size: 13px; font-weight: 400 }
.panel p.soft { margin: 2px 0 10px }
.panel .empty { color: var(--body-text-color-subdued); text-align: center; padding: 36px 24px; margin: 0 }
.panel details.answer { border-bottom: 1px solid var(--border-color-primary); padding: 4px 0 10px;
  margin-bottom: 8px }
.panel details.answer:last-child { border: 0 }
.panel summary { cursor: pointer; font-weight: 600; margin-bottom: 8px; overflow-wrap: anywhere }
.panel summary .soft { display: block; padding-left: 18px }
.panel .memory, .panel .slot { border: 1px solid var(--border-color-primary); border-radius: 14px;
  padding: 10px 14px; margin-bottom: 10px; background: var(--block-background-fill) }
.panel .tag.used { background: var(--color-accent); color: #fff }
.panel .memory.is-pinned { border-color: var(--color-accent) }
.panel .memory header { display: flex; align-items: center; gap: 8px; font-size: 13px; flex-wrap: wrap }
.panel .memory p { margin: 6px 0 0; overflow-wrap: anywhere }
.panel .memory audio, .panel .memory video { width: 100%; height: 36px; margin-top: 8px }
.panel .memory video { height: auto }
.panel .rank { min-width: 22px; height: 22px; border-radius: 999px; display: grid; place-items: center;
  background: var(--color-accent); color: #fff; font-weight: 600; font-size: 12px }
.panel .kind { color: var(--color-accent) }
.panel .tag { font-size: 12px; padding: 1px 8px; border-radius: 999px; background: var(--color-accent-soft);
  color: var(--body-text-color) }
.panel .with-picture { display: flex; gap: 12px; align-items: center; margin-top: 8px }
.panel .with-picture img { width: 72px; height: 72px; object-fit: cover; border-radius: 10px; margin: 0;
  background: var(--background-fill-secondary) }
.panel .bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 4px 10px;
  align-items: center; margin-top: 10px; font-size: 12px; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums }
.panel .bar { height: 6px; border-radius: 999px; background: var(--border-color-primary); overflow: hidden }
.panel .bar i { display: block; height: 100%; border-radius: 999px; background: var(--color-accent) }
.panel .slot header { font-weight: 600; font-size: 13px; display: flex; gap: 8px; align-items: center }
.panel .slot ul { list-style: none; margin: 6px 0 0; padding: 0 }
.panel .slot li { margin: 3px 0; overflow-wrap: anywhere }
.panel .turn { display: inline-block; min-width: 22px; margin-right: 8px; text-align: center; font-size: 12px;
  border-radius: 6px; background: var(--background-fill-secondary); font-variant-numeric: tabular-nums }
.panel .memory footer { display: flex !important; align-items: center; justify-content: space-between;
  gap: 8px; margin-top: 8px; min-height: 30px }
.panel .memory .buttons, .panel .memory .confirm { display: flex; gap: 6px; align-items: center;
  font-size: 13px }
.panel [hidden] { display: none !important }
.panel .memory button { font: inherit; font-size: 13px; padding: 3px 12px; border-radius: 999px;
  border: 1px solid var(--border-color-primary); background: transparent; color: var(--body-text-color);
  cursor: pointer; margin: 0 }
.panel .memory button:hover { border-color: var(--color-accent) }
.panel .memory button.danger { background: #c0334d; border-color: #c0334d; color: #fff }
@media (max-width: 760px) {
  .gradio-container .app { padding: 8px 12px !important }
  #head .claim { display: none }
  #head h1 { flex: 1 }
  #head .bar-line { gap: 8px }
  #head a, #head button { padding: 5px 10px }
  #talk { height: 58vh !important }
  #side { position: static }
  .panel, #memories .panel { max-height: none }
  .panel .memory button { padding: 6px 14px }
}
"""

# A click on a button with data-act is an event; Delete first shows its confirmation.
BUTTONS = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  const { act, ask, keep, id } = button.dataset;
  if (act) { button.disabled = true; trigger('click', { act, id }); return; }
  if (!ask && !keep) return;
  const footer = button.closest('footer');
  footer.querySelector('.confirm').hidden = Boolean(keep);
  for (const part of footer.children)
    if (!part.classList.contains('confirm')) part.hidden = Boolean(ask);
  footer.querySelector(ask ? '[data-keep]' : '[data-ask]').focus();
});
"""
