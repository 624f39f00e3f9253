"""Export networks for other programs. See formats.py for the formats.

Each written file is read again, and its output is compared with the output of the network.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import nn

from upscale_lit import shipped
from upscale_lit.errors import InputError, check_choice, shown
from upscale_lit.files import atomic, check_name
from upscale_lit.inference.formats import FORMATS, Format, layout_of
from upscale_lit.weights import load_weights


class Exported(NamedTuple):
    """An export: its files, its format, the largest difference of its output, and the seconds that it took.

    model, facts: of the source.
    """

    paths: list[Path]
    form: str
    difference: float
    seconds: float
    model: nn.Module
    facts: dict[str, Any]


def export(source: Path, target: Path | None = None, kind: str | None = None, plain: bool = False) -> Exported:
    """Write the network of a weights file for other programs.

    The difference is the largest one between the outputs of the network and of the new file, for values from 0 to 1.
    source: the weights file.
    target: a file whose ending fits the format, or a folder for the new file, or None. None stands for the folder of
        the source, or for the working folder if the source is a shipped model. In a folder, the new file is named
        after the source, the factor and the format.
    kind: one of FORMATS. None takes the format of the target's ending, or ONNX.
    plain: leave out the continuation at the borders (see `Chain`), only for ONNX.
    Raises InputError if the source cannot be read, if the format cannot represent the network, if packages are missing,
    or if the target cannot be written or holds something else. Raises InputError as well, and writes nothing, if the
    output differs by more than the format allows.
    """
    begin = time.perf_counter()
    if kind is not None:
        check_choice("--format", kind, FORMATS)
    model, facts = load_weights(source)
    target, form = _target(source, target, kind, int(getattr(model, "factor", 2)))
    if plain and form.name != "onnx":
        raise InputError(f"--plain must go with ONNX; got {form.name}. Leave it out: other formats are always plain.")
    paths = [target.with_suffix(ending) for ending in form.files] or [target]
    for path in paths:
        check_name(path)
        _refuse_to_replace(path, source, form)
    form.check(model, source)
    del facts["sha256"]
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context(atomic(path)) for path in paths]
            difference = form.write(model, facts, parts, "plain" if plain else target.suffix.lower())
            if not difference <= form.close:
                raise InputError(f"{target} is not written: its output differs from the network's by {difference:.2g}.")
    except SafetensorError as error:
        raise InputError(f"{target} cannot be written: {error}.") from error
    return Exported(paths, form.name, difference, time.perf_counter() - begin, model, facts)


def _target(source: Path, target: Path | None, kind: str | None, factor: int) -> tuple[Path, Format]:
    """Return the path of the new file, and its format."""
    if target is not None and not os.path.isdir(target):
        fitting = [form for form in FORMATS.values() if target.suffix.lower() in form.endings]
        form = next((form for form in fitting if kind in (None, form.name)), None)
        if form is None:
            endings = FORMATS[kind].endings if kind else dict.fromkeys(sum((f.endings for f in FORMATS.values()), ()))
            raise InputError(
                f"The export's name must end in {' or '.join(endings)}, or be an existing folder; got {target.name!r}."
            )
        return target, form
    form = FORMATS[kind or "onnx"]
    model = shipped.model_of(source)
    name = form.pattern.format(name="_".join(filter(None, [model, source.stem])), factor=factor)
    return (Path(name) if model else source.with_name(name)) if target is None else target / name, form


def _refuse_to_replace(path: Path, source: Path, form: Format) -> None:
    """Raise InputError if the new file would replace its source, or a file that is no earlier export of the format."""
    if not os.path.exists(path):
        return
    if os.path.samefile(path, source):
        raise InputError(f"The export would overwrite its own source {shown(path)}. Name another file with -o.")
    if (found := layout_of(path)) != form.name:
        raise InputError(
            f"{shown(path)} exists and is no export in the format {form.name}; it is {found or 'another file'}. Name "
            "another file with -o, or delete this one."
        )
