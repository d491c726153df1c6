"""Options that several commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Provider = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="auto, cpu, cuda, webgpu, coreml, or another of onnxruntime's."
    ),
]
ProviderOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option",
        metavar="KEY=VALUE",
        help="For the provider, as onnxruntime names it; repeat it for more.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Speakers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SPEAKER",
        help='Who speaks the lines that begin with a name, as in "Ann=S1"; repeat it for more.',
    ),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", help="CPU threads. By default all physical cores.")
]
