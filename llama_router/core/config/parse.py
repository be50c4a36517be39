"""Converts a parsed TOML document to a `Config`, strictly. Pure."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ...errors.config import ConfigError, Problem, Where
from . import placeholders, tables
from .config import Config
from .containers import container_command
from .exposure import host_fault, pages_fault
from .kinds import LLAMA_SERVER, Table, name_fault
from .names import ModelId
from .service import Service, is_pattern
from .specs import (
    DEFAULT_SPAWN,
    SERVICE_SPAWN,
    ApiKey,
    DeclaredKind,
    DeviceSpec,
    ModelSpec,
    Policy,
    RouterSpec,
    SchedulerSpec,
    SpawnSpec,
)
from .strict import INVALID, Reader, problems_in, reader

Keys = Mapping[str, Reader]
"""The keys that a table may have, each with the function that converts its value."""


def _readers(table: tables.Kinds) -> Keys:
    return {key: reader(kind) for key, kind in table.items()}


_SECTIONS: Final[Keys] = dict.fromkeys(tables.SECTIONS, reader(Table))
_ROUTER_KEYS: Final = _readers(tables.ROUTER)
_SCHEDULER_KEYS: Final = _readers(tables.SCHEDULER)
_DEVICE_KEYS: Final = _readers(tables.DEVICE)
_SPAWN_KEYS: Final = _readers(tables.SPAWN)
_TEMPLATE_KEYS: Final = _readers(tables.MODEL_IN_TEMPLATE)
_API_KEY_KEYS: Final = _readers(tables.API_KEY)
_MODEL_KEYS: Final = _readers(tables.MODEL)

# Settings of a model that `[router]` has, too.
_INHERITED: Final = ("max_queued", "ttl_s", "notify_model_swap", "autoload", "aliases_in_list")

# What decides about a process, and its memory: there is none for a model that a service serves.
_OF_PROCESS: Final = (
    *("path", "mmproj", "spawn", "args", "found_args", "template", "group", "ttl_s"),
    *("keep_loaded", "memory_mib", "exclusive", "devices", "needs"),
)

# What decides about a service.
_OF_SERVICE: Final = (
    *("key", "key_file", "health_endpoint", "health_period_s", "proxy_endpoints", "models"),
)

# What decides about one model, and not about all those of a service.
_OF_ONE: Final = ("aliases", "presets", "upstream_model", "name", "description", "context_length")

# Replaces invalid commands, so that no second problem is reported about them.
_NO_WORDS: dict[str, Any] = {"command": (), "args": (), "env": {}}


def parse_config(document: Mapping[str, Any]) -> Config:
    """Return the `Config` of a parsed TOML document. Nothing is coerced, nothing ignored.

    Raises:
        ConfigError: with all problems of the document, without lines.
    """
    parser = _Parser()
    config = parser.config(document)
    if parser.problems:
        raise ConfigError(tuple(parser.problems))
    return config


@attrs.frozen
class _Template:
    """The settings that a model inherits from its template.

    Attributes:
        spawn: Spawn settings, complete.
        model: Settings of the model itself.
    """

    spawn: SpawnSpec
    model: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


class _Parser:
    """Converts one document; leaves invalid values out and collects their problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.imports: dict[str, Service] = {}

    def config(self, document: Mapping[str, Any]) -> Config:
        sections = self.fields(document, _SECTIONS, ())
        router = RouterSpec(**self.fields(sections.get("router", {}), _ROUTER_KEYS, ("router",)))
        keys = {
            name: key
            for name, table in self.named_tables(sections, "api_keys")
            if (key := self.api_key(name, table)) is not None
        }
        default = self.spawn(DEFAULT_SPAWN, document, sections, where=("default_spawn",))
        tables = dict(self.named_tables(sections, "templates"))
        templates = {
            name: self.template(default, sections["templates"], tables, name)
            for name in sections.get("templates", {})
        }
        wanted = router.safetensors_template
        if wanted is not None and wanted not in templates:
            hint = _suggest(wanted, templates)
            where = ("router", "safetensors_template")
            self.report(where, f"there is no template {wanted!r}{hint}")
        written = dict(sections.get("models", {}))
        models: dict[ModelId, ModelSpec] = {}
        for name, table in self.named_tables(sections, "models"):
            if "models" in table and "url" in table:
                models |= self.models_of_service(name, table, router, written)
                del written[name]
            else:
                model = ModelId(name)
                models[model] = self.model(model, table, router, default, templates)
        owners = self.check_names(router, models, written)
        self.check_home(router, models, owners)
        self.check_keys(keys)
        self.check_containers(models)
        scheduler = SchedulerSpec(
            **self.fields(sections.get("scheduler", {}), _SCHEDULER_KEYS, ("scheduler",))
        )
        devices = {
            name: self.device(name, table) for name, table in self.named_tables(sections, "devices")
        }
        self.check_memory(scheduler, devices, models)
        written = sections.get("api_keys", {})
        for index, host in enumerate(router.hosts):
            fault = host_fault(
                host, has_keys=bool(written), public_without_keys=router.public_without_keys
            )
            if fault is not None:
                place = () if isinstance(router.host, str) else (index,)
                self.report(("router", "host", *place), fault)
        if fault := pages_fault(router.pages_origin, router.hosts, router.port):
            self.report(("router", "pages_origin"), fault)
        return Config(
            router=router,
            scheduler=scheduler,
            devices=devices,
            api_keys=keys,
            models=models,
            imports=self.imports,
        )

    def report(self, where: Where, message: str) -> None:
        self.problems.append(Problem(where, message))

    def fields(self, table: Mapping[str, object], keys: Keys, where: Where) -> dict[str, Any]:
        """Return the valid values of *table*; report unknown keys and invalid values."""
        usable: dict[str, Any] = {}
        for key, value in table.items():
            if key not in keys:
                self.report((*where, key), f"unknown key {key!r}{_suggest(key, keys)}")
                continue
            try:
                usable[key] = keys[key](value)
            except INVALID as error:
                self.problems += problems_in(error, (*where, key))
        return usable

    def named_tables(
        self, sections: Mapping[str, Any], section: str
    ) -> Iterable[tuple[str, Mapping[str, object]]]:
        """Yield the tables of *section* with their names; report other values."""
        for name, table in sections.get(section, {}).items():
            if fault := name_fault(name):
                self.report((section, name), fault)
            elif self.fields({name: table}, {name: _SECTIONS[section]}, (section,)):
                yield name, table

    def spawn(
        self,
        base: SpawnSpec,
        written: Mapping[str, object],
        usable: Mapping[str, Any],
        *,
        where: Where,
    ) -> SpawnSpec:
        """Return *base* with its fields replaced by those of one table; env merges by key.

        Inherited args belong to the inherited command: a command of the table's own drops them.

        Args:
            base: The values that the table inherits.
            written: The parent of the table in the document.
            usable: The valid values of *written*.
            where: Path of the table; its last key is the one in *written*.
        """
        key = str(where[-1])
        if key in written and key not in usable:
            return attrs.evolve(base, **_NO_WORDS)
        table = usable.get(key, {})
        own = self.fields(table, _SPAWN_KEYS, where)
        own |= {k: v for k, v in _NO_WORDS.items() if k in table and k not in own}
        if "command" in own:
            own.setdefault("args", ())
        if "env" in own:
            own["env"] = {**base.env, **own["env"]}
        return attrs.evolve(base, **own)

    def template(
        self,
        default: SpawnSpec,
        written: Mapping[str, object],
        tables: Mapping[str, Mapping[str, object]],
        name: str,
    ) -> _Template:
        """Return one template, with all that it inherits from *default*.

        Args:
            default: The settings of ``[default_spawn]``.
            written: The table ``[templates]``.
            tables: Its valid tables.
            name: The name of the template.
        """
        table = tables.get(name, {})
        of_model = {key: value for key, value in table.items() if key in _TEMPLATE_KEYS}
        usable = dict(tables)
        if name in tables:
            usable[name] = {key: table[key] for key in table if key not in of_model}
        return _Template(
            spawn=self.spawn(default, written, usable, where=("templates", name)),
            model=self.fields(of_model, _TEMPLATE_KEYS, ("templates", name)),
        )

    def model(
        self,
        model: ModelId,
        table: Mapping[str, object],
        router: RouterSpec,
        default: SpawnSpec,
        templates: Mapping[str, _Template],
    ) -> ModelSpec:
        where = ("models", model)
        own = self.fields(table, _MODEL_KEYS, where)
        if "url" in table:
            settings = self.service_settings(where, table, own, router)
            return ModelSpec(id=model, **settings)
        for key in _OF_SERVICE:
            if key in table:
                self.report((*where, key), "needs a 'url': it is about a service")
        own.pop("models", None)
        template = own.get("template")
        inherits = _Template(spawn=default)
        if "template" in table:
            nothing = _Template(spawn=attrs.evolve(default, **_NO_WORDS))
            inherits = templates.get(str(template), nothing)
        if template is not None and template not in templates:
            hint = _suggest(template, templates)
            self.report((*where, "template"), f"there is no template {template!r}{hint}")
        spawn = self.spawn(inherits.spawn, table, own, where=(*where, "spawn"))
        own.pop("spawn", None)
        own_args = (*own.pop("found_args", ()), *own.pop("args", ()))
        spawn = attrs.evolve(spawn, args=(*spawn.args, *own_args))
        if router.llama_server is not None and spawn.command[:1] == (LLAMA_SERVER,):
            program = placeholders.escape(router.llama_server)
            spawn = attrs.evolve(spawn, command=(program, *spawn.command[1:]))
        words = (*spawn.command, *spawn.args, *spawn.env.values())
        used = frozenset[str]().union(*map(placeholders.names_in, words))
        for name in sorted(used & {"path", "mmproj"} - table.keys()):
            self.report(where, f"the command uses '${name}', but the model has no {name!r}")
        inherited = {name: getattr(router, name) for name in _INHERITED}
        return ModelSpec(id=model, spawn=spawn, **{**inherited, **inherits.model, **own})

    def models_of_service(
        self,
        name: str,
        table: Mapping[str, object],
        router: RouterSpec,
        written: Mapping[str, object],
    ) -> dict[ModelId, ModelSpec]:
        """Return the models of a table that names several of one service: ``NAME/MODEL`` each.

        Args:
            name: The name of the table.
            table: The table.
            router: The ``[router]`` table.
            written: All tables of models.
        """
        where = ("models", name)
        own = self.fields(table, _MODEL_KEYS, where)
        settings = self.service_settings(where, table, own, router)
        for key in _OF_ONE:
            if key in table:
                self.report((*where, key), "is about one model: give that a table of its own")
            settings.pop(key, None)
        found: dict[ModelId, ModelSpec] = {}
        for index, upstream_model in enumerate(own.get("models", ())):
            if is_pattern(upstream_model):
                if (service := ModelSpec(id=ModelId(name), **settings).service) is not None:
                    self.imports[name] = service
                continue
            model = ModelId(f"{name}/{upstream_model}")
            if model in written or model in found:
                self.report((*where, "models", index), f"there is a model {str(model)!r} already")
            found[model] = ModelSpec(id=model, upstream_model=upstream_model, **settings)
        return found

    def service_settings(
        self,
        where: Where,
        table: Mapping[str, object],
        own: Mapping[str, Any],
        router: RouterSpec,
    ) -> dict[str, Any]:
        """Return the settings of a model that a service serves.

        Args:
            where: The place of its table.
            table: The table in the document.
            own: The valid values of *table*.
            router: The ``[router]`` table.
        """
        for key in _OF_PROCESS:
            if key in table:
                message = "has no meaning beside 'url': the router starts no process for the model"
                self.report((*where, key), message)
        if "key" in table and "key_file" in table:
            self.report((*where, "key_file"), "the model has a 'key' already")
        inherited = {name: getattr(router, name) for name in _INHERITED if name != "ttl_s"}
        settings = inherited | {key: own[key] for key in own if key not in _OF_PROCESS}
        settings.pop("models", None)
        endpoints = settings.get("proxy_endpoints")
        spawn = SERVICE_SPAWN
        if endpoints is not None:
            spawn = attrs.evolve(spawn, proxy_endpoints=endpoints)
        return settings | {"spawn": spawn}

    def api_key(self, name: str, table: Mapping[str, object]) -> ApiKey | None:
        where = ("api_keys", name)
        own = self.fields(table, _API_KEY_KEYS, where)
        if ("key" in table) == ("sha256" in table):
            self.report(where, "needs either 'key' or 'sha256', the digest of the key")
        key = own.pop("key", None)
        if key is not None:
            own["sha256"] = hashlib.sha256(key.encode()).hexdigest()
        return ApiKey(**own) if "sha256" in own else None

    def device(self, name: str, table: Mapping[str, object]) -> DeviceSpec:
        where = ("devices", name)
        spec = DeviceSpec(**self.fields(table, _DEVICE_KEYS, where))
        if spec.kind is DeclaredKind.POOL:
            if "amount" not in table:
                self.report(where, "a pool needs an 'amount'")
            for key in ("memory_mib", "reserve_mib"):
                if key in table:
                    self.report((*where, key), "a pool has an 'amount', and no memory")
        elif "amount" in table:
            self.report((*where, "amount"), "only a device with kind = 'pool' has an 'amount'")
        if spec.kind is DeclaredKind.SIMULATED and "memory_mib" not in table:
            self.report(where, "a simulated device needs 'memory_mib'")
        if spec.memory_mib is not None and (spec.reserve_mib or 0) >= spec.memory_mib:
            self.report((*where, "reserve_mib"), "leaves nothing of 'memory_mib' to models")
        return spec

    def check_memory(
        self,
        scheduler: SchedulerSpec,
        devices: Mapping[str, DeviceSpec],
        models: Mapping[ModelId, ModelSpec],
    ) -> None:
        """Report settings of memory that contradict each other."""
        if scheduler.max_models is not None and scheduler.policy is not Policy.MEMORY:
            self.report(("scheduler", "max_models"), "needs policy = 'memory'")
        pools = {name: d for name, d in devices.items() if d.kind is DeclaredKind.POOL}
        for model, spec in models.items():
            for name, units in spec.needs.items():
                where = ("models", model, "needs", name)
                if name not in pools:
                    hint = _suggest(name, pools)
                    self.report(where, f"there is no device {name!r} with kind = 'pool'{hint}")
                elif units > (amount := pools[name].amount or units):
                    self.report(where, f"more than the pool has (amount = {amount})")
            if isinstance(spec.memory_mib, Mapping):
                self._check_budgets(model, spec.memory_mib, devices)

    def _check_budgets(
        self, model: str, memory_mib: Mapping[str, int], devices: Mapping[str, DeviceSpec]
    ) -> None:
        """Report what a model takes of a device beyond what the settings leave to models."""
        for name, mib in memory_mib.items():
            device = devices.get(name)
            if device is None or device.memory_mib is None:
                continue  # how much that is, the driver says
            budget_mib = device.memory_mib - (device.reserve_mib or 0)
            if mib > budget_mib:
                where = ("models", model, "memory_mib", name)
                has = f"{budget_mib} MiB of [devices.{name}]"
                self.report(where, f"more than all models may take together: {has}")

    def check_keys(self, keys: Mapping[str, ApiKey]) -> None:
        """Report keys with two names: a request could not be attributed to one of them."""
        owners: dict[str, str] = {}
        for name, key in keys.items():
            if (owner := owners.setdefault(key.sha256, name)) != name:
                self.report(("api_keys", name), f"the same key as that of {owner!r}")

    def check_containers(self, models: Mapping[ModelId, ModelSpec]) -> None:
        """Report models with one name of a container: each would remove that of the other."""
        owners: dict[tuple[tuple[str, ...], str], ModelId] = {}
        for model, spec in models.items():
            found = container_command((*spec.spawn.command, *spec.spawn.args))
            if found is None or found.name is None:
                continue
            if {"container", "model", "port"} & placeholders.names_in(found.name):
                continue
            owner = owners.setdefault((found.runtime, found.name), model)
            if owner != model:
                message = (
                    f"its container has the same name as that of {owner!r}: write "
                    "'--name', '$container'"
                )
                self.report(("models", model), message)

    def check_names(
        self,
        router: RouterSpec,
        models: Mapping[ModelId, ModelSpec],
        written: Mapping[str, object],
    ) -> Mapping[str, str]:
        """Report duplicate names of models, and names in ``[router]`` that no model has.

        Returns:
            The model of each name.
        """
        owners = {name: name for name in (*written, *map(str, models))}
        for model, spec in models.items():
            for index, alias in enumerate(spec.aliases):
                if alias in owners:
                    message = f"{alias!r} is already a name of the model {owners[alias]!r}"
                    self.report(("models", model, "aliases", index), message)
                else:
                    owners[alias] = model
        for model, spec in models.items():
            for name, preset in spec.names().items():
                if preset is not None and owners.setdefault(name, model) != model:
                    message = f"{name!r} is already a name of the model {owners[name]!r}"
                    self.report(("models", model, "presets", preset), message)
        if router.default_for_unknown and router.default_model is None:
            self.report(("router", "default_for_unknown"), "needs a 'default_model'")
        for key in ("startup_model", "home_model", "default_model"):
            name = getattr(router, key)
            if name is not None and name not in owners:
                message = f"no model has the name {name!r}{_suggest(name, owners)}"
                self.report(("router", key), message)
        return owners

    def check_home(
        self,
        router: RouterSpec,
        models: Mapping[ModelId, ModelSpec],
        owners: Mapping[str, str],
    ) -> None:
        """Report a home model without a process: there is nothing to return to."""
        home = models.get(ModelId(owners.get(router.home_model or "", "")))
        if home is not None and home.url is not None:
            message = f"a service serves {router.home_model!r}: there is no process to return to"
            self.report(("router", "home_model"), message)


def _suggest(wrong: str, known: Iterable[str]) -> str:
    """Return the end of a message: the most similar known name, or all known names."""
    names = sorted(known)
    if close := difflib.get_close_matches(wrong, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(names)}" if names else ""
