"""`semattn demo`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from . import options
from .json_output import emit
from .model_options import EMBEDDED, ModelOptions, model_options
from .printing import busy, collected_warnings, print_notes
from .terminal import open_console


@model_options
def demo(
    chosen_model: ModelOptions = EMBEDDED,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=65535,
            rich_help_panel=options.OUTPUT,
            help="Port of the page. Default: the first free one from 7860.",
        ),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Serve a page to try a model: upload a picture, choose the method and the class.

    Needs Gradio: [bold]pip install 'semattn[demo]'[/]. The page is reachable from this machine
    only, and sends nothing to the network. Control-C stops it. With [bold]--json[/], the address
    is printed as an object once the page is ready.
    """
    from ..integrations.gradio_demo import build_demo, check_gradio, serve_demo

    check_gradio()  # before the model is loaded, which may take long
    with busy("loading the model") as say, collected_warnings() as notes:
        network = chosen_model.load()
        say("starting the page")
        address, close = serve_demo(build_demo(network), port=port)
    print_notes(open_console(error=True), notes)
    if as_json:
        emit({"address": address})
    else:
        typer.echo(f"open {address} in a browser; Control-C stops the page")
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        close()
