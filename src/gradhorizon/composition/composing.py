"""Hydra's configurations of a sweep, each set of group choices composed once.

Hydra's composition reads and merges files: it depends on what the overrides choose of groups, and on no other value.
Here what was merged for a set of choices is kept, and the values of each run are set on a copy of it, by Hydra's own
functions. Whatever does not go through is left to Hydra, whose words are then the ones that count.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hydra import __version__, compose, initialize_config_dir, version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.conf import ConfigSourceInfo
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf, open_dict

from gradhorizon.composition.packing import Packed
from gradhorizon.machine.installed import CONF_DIR

log = logging.getLogger(__name__)

HYDRA_BASE = "1.3"
"""The version of Hydra whose defaults hold, such as to stay in the folder that a launch began in."""

_MOST_PARSED = 10_000  # overrides that are kept as Hydra has read them
_MOST_MERGED = 1_000  # sets of choices that are kept, some 20 KB each


def composed_train(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """``train.yaml``, composed outside of any launch.

    Args:
        overrides: as on the command line.
        with_hydra: whether Hydra's own node is part of it.

    Raises:
        HydraException: it cannot be composed.
    """
    with initialize_config_dir(str(CONF_DIR), version_base=HYDRA_BASE):
        return compose("train", overrides=list(overrides), return_hydra_config=with_hydra)


class _LeftToHydraError(Exception):
    """The order of the overrides may matter."""


def composing_once(loader: ConfigLoader) -> ConfigLoader:
    """A loader that composes what `loader` does, the files of each set of group choices once.

    Args:
        loader: Hydra's own; any other is handed back as it is.
    """
    return ComposingOnce(loader) if type(loader) is ConfigLoaderImpl else loader


@dataclass(frozen=True)
class _Places:
    """Where configuration files are looked for, and what was merged of them."""

    config_name: str | None
    searched: list[str]
    repository: IConfigRepository
    is_group: dict[str, bool] = field(default_factory=dict)
    merged: dict[tuple[str, ...], Callable[[], DictConfig]] = field(default_factory=dict)

    def chooses(self, override: Override) -> bool:
        """Whether an override chooses of a group, as Hydra decides it."""
        key = override.key_or_group
        if key not in self.is_group:
            self.is_group[key] = self.repository.group_exists(key)
        return self.is_group[key] and not isinstance(override.value(), dict)


class ComposingOnce(ConfigLoaderImpl):
    """Hydra's loader, which keeps what it has merged: a file that is changed during a sweep changes nothing of it.

    Args:
        loader: whose files and search path it takes.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.config_search_path, self.repository = loader.config_search_path, loader.repository
        self._places: dict[tuple[str | None, ...], _Places] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was merged: other processes are sent this with every run."""
        return {**vars(self), "_places": {}}

    def _load_configuration_impl(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **kwargs: Any
    ) -> DictConfig:
        if run_mode == RunMode.RUN:
            try:
                return self._composed(config_name, overrides)
            except Exception as error:  # noqa: BLE001, whatever it is, Hydra has its own words for it
                log.debug("left to Hydra: %s", error)
        return super()._load_configuration_impl(config_name, overrides, run_mode, *args, **kwargs)

    def _composed(self, config_name: str | None, lines: Sequence[str]) -> DictConfig:
        parsed = [_parsed(line) for line in lines]
        self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        places = self._places_of(config_name, parsed)
        values = [one for one in parsed if not one.is_hydra_override() and not places.chooses(one)]
        shared = [one for one in parsed if one.is_hydra_override() or places.chooses(one)]
        cfg = self._merged(places, shared)()
        for override in values:
            _refuse_if_it_reads(override, cfg)
        self._apply_overrides_to_config(values, cfg)
        _describe_task(cfg.hydra, parsed)
        return cfg

    def _places_of(self, config_name: str | None, parsed: Sequence[Override]) -> _Places:
        searched = [_line(one) for one in parsed if one.get_key_element() == "hydra.searchpath"]
        key = (config_name, *searched)
        if key not in self._places:
            self.ensure_main_config_source_available()
            _, repository = self._parse_overrides_and_create_caching_repo(config_name, searched)
            self._places[key] = _Places(config_name, searched, repository)
        return self._places[key]

    def _merged(self, places: _Places, shared: list[Override]) -> Callable[[], DictConfig]:
        key = tuple(map(_line, shared))
        if key not in places.merged:
            if len(places.merged) >= _MOST_MERGED:
                places.merged.clear()
            places.merged[key] = _copies_of(self._merge(places, shared))
        return places.merged[key]

    def _merge(self, places: _Places, shared: list[Override]) -> DictConfig:
        """What Hydra makes of group choices and of values of its own node, but for the names of the run's overrides."""
        # Merging changes what a repository has read, so that each serves once.
        _, repository = self._parse_overrides_and_create_caching_repo(places.config_name, places.searched)
        defaults = create_defaults_list(
            repo=repository,
            config_name=places.config_name,
            overrides_list=shared,
            prepend_hydra=True,
            skip_missing=False,
        )
        cfg = self._compose_config_from_defaults_list(defaults.defaults, repository)
        OmegaConf.set_struct(cfg, True)
        OmegaConf.set_readonly(cfg.hydra, False)
        for override in defaults.config_overrides:
            _refuse_if_it_reads(override, cfg)
        self._apply_overrides_to_config(defaults.config_overrides, cfg)
        _describe(cfg.hydra, places.config_name, defaults.overrides.known_choices, repository)
        return cfg


@lru_cache(_MOST_PARSED)
def _parsed(line: str) -> Override:
    return OverridesParser.create().parse_overrides([line])[0]


def _line(override: Override) -> str:
    return str(override.input_line)


def _refuse_if_it_reads(override: Override, cfg: DictConfig) -> None:
    """Leave to Hydra what looks at values that other overrides may set, and whatever sets Hydra's node as a whole."""
    *parents, name = override.key_or_group.split(".")
    if override.key_or_group == "hydra":
        raise _LeftToHydraError(override.input_line)
    node: Any = cfg
    for one in [*parents, name] if override.is_add() or override.is_delete() else parents:
        node = node._get_node(one, validate_access=False) if isinstance(node, DictConfig) else None  # noqa: SLF001
        if not isinstance(node, Node) or node._is_none():  # noqa: SLF001
            return
        if node._is_interpolation():  # noqa: SLF001
            raise _LeftToHydraError(override.input_line)


def _copies_of(cfg: DictConfig) -> Callable[[], DictConfig]:
    try:
        return Packed(cfg).opened
    except Exception:  # noqa: BLE001, a class of the user's own that cannot be found by its name
        return lambda: copy.deepcopy(cfg)


def _describe(
    hydra: DictConfig, config_name: str | None, choices: dict[str, str | None], repository: IConfigRepository
) -> None:
    """Set what Hydra says of a composition, in its order."""
    with open_dict(hydra):
        hydra.runtime.choices.update(choices)
        for key in hydra.job.env_copy:
            hydra.job.env_set[key] = os.environ[key]
    hydra.runtime.version = __version__
    hydra.runtime.version_base = version.getbase()
    hydra.runtime.cwd = os.getcwd()  # noqa: PTH109, as Hydra asks
    hydra.runtime.config_sources = [
        ConfigSourceInfo(path=source.path, schema=source.scheme(), provider=source.provider)
        for source in repository.get_sources()
    ]
    if "name" not in hydra.job:
        hydra.job.name = JobRuntime().get("name")
    hydra.job.config_name = config_name


def _describe_task(hydra: DictConfig, parsed: Sequence[Override]) -> None:
    """Set what Hydra says of a run's own overrides."""
    own = [override for override in parsed if not override.is_hydra_override()]
    for words, overrides in (
        (hydra.overrides.task, own),
        (hydra.overrides.hydra, [override for override in parsed if override.is_hydra_override()]),
    ):
        for override in overrides:
            words.append(_line(override))
    style = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(
        overrides=own, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
    )
