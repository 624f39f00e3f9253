"""The controls of the app's page. This module imports gradio, after `app.serve` has set its environment variables."""

from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from upscale_lit.errors import InputError
from upscale_lit.inference.app import AUTOMATIC, HOST, App, StoppedError
from upscale_lit.inference.choose import SCALES
from upscale_lit.pages.page import text

AMOUNTS = (AUTOMATIC, *(f"{tenth / 10:g}" for tenth in range(11)))
# gradio marks the dark mode by a class, and does not stop its animations for visitors who want none.
STYLE = """
body { color-scheme: light; }
body.dark { color-scheme: dark; }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""


def launch(app: App, port: int, opened: bool, largest: int) -> tuple[gr.Blocks, str]:
    """Serve the page in the background, and return it with its address.

    opened, largest: see `app.serve`. Raises OSError if the port is taken.
    """
    page = build_page(app)
    # Fonts with other names would come from a server.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = page.queue(default_concurrency_limit=1).launch(
        server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=opened,
        allowed_paths=[str(app.folder)], max_file_size=largest, ssr_mode=False, footer_links=[], theme=theme,
        enable_monitoring=False, app_kwargs={"middleware": [Middleware(OwnPageOnly)]},
        css=STYLE + text("compare.css"), head=f"<script>{text('compare.js')}</script>",
    )  # fmt: skip
    return page, address


class OwnPageOnly:
    """Refuse requests that other web pages send, such as uploads, and names of other hosts for this computer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if host.partition(":")[0] not in (HOST, "localhost") or origin not in (None, f"http://{host}"):
                answer = PlainTextResponse("Only the page of this app may send requests.", 403)
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


def build_page(app: App) -> gr.Blocks:
    """Return the page. Each visitor has a session, and results go only to the session that asked for them."""

    def expect(request: gr.Request) -> None:
        app.expect(str(request.session_hash))

    def stop(request: gr.Request) -> None:
        app.stop(str(request.session_hash))

    def work(
        source: str | None, scale: int, model: str, restore: str, request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds the progress bar by this default
    ) -> tuple[Any, Any, str]:  # fmt: skip
        if source is None:
            raise gr.Error("Drop a picture first, or choose a file.", print_exception=False)
        visitor = str(request.session_hash)
        try:
            view, target, notes = app.upscale(Path(source), model, scale, restore, visitor, progress)
        except StoppedError:
            return gr.skip(), gr.skip(), "Stopped."
        except InputError as error:
            raise gr.Error(str(error).replace(source, Path(source).name), print_exception=False) from error
        except MemoryError as error:
            raise gr.Error("There is too little memory for this picture.", print_exception=False) from error
        return view, gr.DownloadButton(f"Download {target.name}", value=target, interactive=True), "\n\n".join(notes)

    page: gr.Blocks
    with gr.Blocks(title="upscale_lit", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# upscale_lit")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                source = gr.File(label="Picture", height=140)
                scale = gr.Radio([(f"{scale}x", scale) for scale in SCALES], value=2, label="Scale")
                model = gr.Dropdown(list(app.models), label="Network")
                restore = gr.Dropdown(list(AMOUNTS), label="Restore: remove compression and noise, from 0 to 1")
                start = gr.Button("Upscale", variant="primary")
                halt = gr.Button("Stop", variant="stop")
                result = gr.DownloadButton("Download", interactive=False)
                notes = gr.Markdown()
            with gr.Column(scale=3, min_width=320):
                view = gr.HTML(
                    "Drop a picture, and press Upscale.", js_on_load=None, min_height=200, apply_default_css=False
                )
        start.click(expect, queue=False, show_progress="hidden").then(
            work, [source, scale, model, restore], [view, result, notes], show_progress_on=[view]
        )
        halt.click(stop, queue=False, show_progress="hidden")
        page.unload(stop)
    return page
