"""``check`` and ``init``: checks a configuration file, or writes an example or a template."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ...config.example import (
    SCHEMA_BESIDE,
    SCHEMA_NAME,
    example_config,
    meanings,
    with_schema_beside,
)
from ...config.locations import state_dir_for
from ...config.shipped_templates import template_names, template_text
from ...core.config import placeholders
from ...core.config.command import environment
from ...core.config.config import Config as LoadedConfiguration
from ...core.config.names import ModelId
from ...core.config.specs import ModelSpec, Policy
from ...core.memory.fit import VERBOSITY, Fit, is_fitted, options_of
from ...files import reason_of, replace_atomically, write_new
from ...files.stalls import despite_stalls
from ...models.discovery import naming
from ...models.scan import fault_of_model
from ..config_loading import PreparedConfig, prepare_or_explain
from ..options import Config
from ..printing import fail, print_json, print_line, print_message


def check(config: Config = None, *, commands: bool = False) -> int:
    """Check a configuration, and print every error; exit with 1 if there is one.

    Args:
        config: Configuration file, with or without ``--config``. Default: the one that
            ``serve`` would use.
        commands: Print the command line of every model, found models included.
    """
    prepared = prepare_or_explain(config, keep=False, strict=True)
    if prepared is None:
        return 1
    loaded = prepared.loaded
    for scanned in prepared.scans:
        for warning in scanned.warnings:
            print_message(f"{warning.path}: warning: {warning.reason}")
    if commands:
        state_dir = state_dir_for(loaded.config.router.state_dir, os.environ)
        fits = despite_stalls(lambda: _fits(loaded.config, state_dir))
        for model, spec in loaded.config.models.items():
            if spec.url is not None:
                print_line(f"{model}: served by {spec.url}")
            else:
                print_line(f"{model}: {_command_line(spec, fits.get(model))}")
        _print_programs(loaded.config)
    damaged = despite_stalls(lambda: _damaged_models(prepared)) | _too_large_models(prepared)
    for model, fault in damaged.items():
        print_message(f"{loaded.path}: models.{model}: {fault}")
    models = len(loaded.config.models)
    if loaded.unavailable or damaged:
        # The router would start, but without these models.
        unusable = len({*loaded.config.file_faults, *damaged})
        return fail(f"{loaded.path}: {unusable} of {models} models cannot be used now")
    print_line(f"{loaded.path}: ok, {models} model{'' if models == 1 else 's'}")
    return 0


def _print_programs(config: LoadedConfiguration) -> None:
    """Print which llama-server programs serve, and warn of broken ones and of unused GPUs."""
    # A tenth of a second of imports, only for this option.
    import trio  # noqa: PLC0415 -- see above

    from ...backends.server_programs import ServerPrograms  # noqa: PLC0415 -- see above

    programs = ServerPrograms(os.environ)
    for program in trio.run(programs.ask, config):
        print_line(f"served by {program.describe()}")
        if warning := program.fault or program.warning:
            print_message(f"warning: {warning}")


def _fits(config: LoadedConfiguration, state_dir: Path) -> dict[ModelId, Fit]:
    """Return what llama.cpp chose for models at earlier loads, where the next start repeats it."""
    from ...backends.environment import inherited  # noqa: PLC0415 -- see above
    from ...backends.launch_identity import keys_of, this_machine  # noqa: PLC0415 -- see above
    from ...backends.launch_plan import fit_to_repeat, memory_for  # noqa: PLC0415 -- see above
    from ...backends.learned_launches import FILE_NAME, read_figures  # noqa: PLC0415 -- see above

    machine = this_machine()
    figures = read_figures(state_dir / FILE_NAME, machine, keep_broken=True)
    keys = keys_of(config.local.models.values(), config.file_versions)
    found = {
        model: fit_to_repeat(
            spec := config.models[model],
            figures.of(machine, key),
            memory_for(inherited(os.environ) | environment(spec, port=0, host="")),
        )
        for model, key in keys.items()
    }
    return {model: fit for model, fit in found.items() if fit is not None}


def _damaged_models(prepared: PreparedConfig) -> dict[ModelId, str]:
    """Return the models with a damaged GGUF file, each with the fault; scans checked the others."""
    scanned = {model for scan in prepared.scans for model in scan.models}
    config = prepared.loaded.config
    faults = {
        model: fault_of_model(spec.path)
        for model, spec in config.models.items()
        if spec.path is not None
        and naming.is_gguf(Path(spec.path).name)
        and str(model) not in scanned
        and model not in config.file_faults
    }
    return {
        model: f"{config.models[model].path}: {fault}"
        for model, fault in faults.items()
        if fault is not None
    }


def _too_large_models(prepared: PreparedConfig) -> dict[ModelId, str]:
    """Return the models of the file that fit on no device of this machine, each with the reason.

    Settings of devices that are wrong here, and found models that do not fit, are warned of.
    """
    config = prepared.loaded.config.local
    if config.scheduler.policy is not Policy.MEMORY:
        return {}
    # A tenth of a second of imports, only for this policy.
    import trio  # noqa: PLC0415 -- see above

    from ...core.scheduling.plan import steps_for  # noqa: PLC0415 -- see above
    from ...dispatch.memory_watch import read_once  # noqa: PLC0415 -- see above

    state_dir = state_dir_for(config.router.state_dir, os.environ)
    view, warnings = trio.run(read_once, config, os.environ, state_dir)
    for warning in warnings:
        print_message(f"{prepared.loaded.path}: warning: {warning}")
    found = {model for scan in prepared.scans for model in scan.models}
    too_large = {}
    for model in config.models.keys() - config.file_faults.keys():
        (step,) = steps_for(config, view, (), [model])
        if step.is_too_large and str(model) in found:
            print_message(f"{prepared.loaded.path}: warning: {step.reason}")
        elif step.is_too_large:
            too_large[model] = step.reason
    return too_large


def _command_line(spec: ModelSpec, fit: Fit | None) -> str:
    """Return the shell command of a model, with ``$port`` and ``$host`` left as they are.

    Args:
        spec: The model.
        fit: What llama.cpp chose for it at an earlier load, if that is repeated.
    """
    values = {"path": spec.path or "", "mmproj": spec.mmproj or "", "model": str(spec.id)}
    values |= {"port": "$port", "host": "$host"}
    words = (placeholders.expand(w, values) for w in (*spec.spawn.command, *spec.spawn.args))
    line = " ".join(w if w in {"$port", "$host"} else shlex.quote(w) for w in words)
    if fit is not None:
        return f"{line} {shlex.join(options_of(fit, spec))}  # fitted before: {fit.describe()}"
    if is_fitted(spec):
        name, value = VERBOSITY
        return f"{name}={value} {line}  # fitted by llama.cpp when it loads"
    return line


def init(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)] = Path("router.toml"),
    /,
    *,
    template: Annotated[tuple[str, ...], Parameter(negative="")] = (),
) -> int:
    """Write the documented example configuration; does not overwrite an existing file.

    Its schema is written beside it, for editors that complete and check TOML.

    Args:
        file: The file to write; ``-`` is standard output. Its folder is created if it is missing.
        template: Instead of the example, settings for another program, such as ``vllm`` or
            ``whisper``; may be given several times. ``list`` prints the names of all.
    """
    if "list" in template:
        for name in template_names():
            print_line(name)
        return 0
    if unknown := [name for name in template if name not in template_names()]:
        known = ", ".join(template_names())
        return fail(f"there is no template {unknown[0]!r}; there are: {known}")
    text = with_schema_beside(example_config())
    if template:
        text = "\n".join((SCHEMA_BESIDE, *map(template_text, dict.fromkeys(template))))
    if str(file) == "-":
        for line in text.splitlines():
            print_line(line)
        return 0
    return _write(file, text)


def _write(file: Path, text: str) -> int:
    """Write *text* and the schema beside it; return the exit status."""
    written = file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_new(file, text.encode(), mode=0o666)
        written = file.with_name(SCHEMA_NAME)
        document = json.dumps(_schema(), indent=2) + "\n"
        replace_atomically(written, document.encode(), mode=0o666)
    except FileExistsError:
        return fail(f"{file} exists already and was not touched")
    except OSError as exc:
        return fail(f"cannot write {written}: {reason_of(exc)}")
    print_line(f"wrote {file}; edit it, then run: llama-router serve --config {file}")
    return 0


def schema() -> int:
    """Print the JSON Schema of the configuration, for editors and other programs."""
    print_json(_schema())
    return 0


def _schema() -> dict[str, Any]:
    from ...core.config.json_schema import json_schema  # noqa: PLC0415 -- for these commands only

    return json_schema(meanings(example_config()))
