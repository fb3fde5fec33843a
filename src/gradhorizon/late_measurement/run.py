"""Measurements of a finished run, taken from the checkpoints that it kept, with the numbers of its own training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from gradhorizon.config import ConfigError, validate
from gradhorizon.kernels.casting import cast
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.late_measurement.members import FinishedMember, KeptCheckpoint
from gradhorizon.late_measurement.trust import with_recorded
from gradhorizon.measurements.measurement import CostMeasurement, Measurement, ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.network import Network
from gradhorizon.records.absent_tables import remedy
from gradhorizon.records.configurations import read_configuration
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import CONFIG, LOG, member_folder, seeds_in
from gradhorizon.records.sheets import read_member_sheet, read_run_sheet
from gradhorizon.records.tables import RUN_COLUMNS
from gradhorizon.runs.identity import RESULTS_VERSION
from gradhorizon.runs.locks import members_locked
from gradhorizon.runs.log import log_file
from gradhorizon.runs.provenance import SOURCES, launch_facts
from gradhorizon.terminal.progress import format_each_seed
from gradhorizon.training.build import build_setup, program_of
from gradhorizon.training.devices import resolve_device
from gradhorizon.training.ensemble import Member
from gradhorizon.training.numerics import check_kernels, configure_torch, training_dtype
from gradhorizon.training.streams import probe_batch

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """Seeds of one run by what became of them, and how many scheduled steps have no checkpoint."""

    measured: list[int] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    num_unkept_steps: int = 0


class FinishedRun:
    """A run on disk, and the measurements that its finished members are to have.

    Args:
        folder: the run's folder; its ``config.yaml`` and ``run.json`` are only read.
        composed: ``train.yaml`` composed with the measurements.
        device: where to measure; where the members were trained if None.
        trusted: packages of which whatever the run's configuration names may be built.

    Raises:
        ConfigError: the network or the task refuses a measurement, or the configuration asks for what is not trusted.
        RecordsError: the run's files cannot be read, or are of another `results_version`.
    """

    def __init__(
        self, folder: Path, composed: DictConfig, device: str | None = None, trusted: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.sheet = _sheet(folder)
        recorded = read_configuration(folder)
        try:
            cfg = with_recorded(composed, recorded, trusted)
        except OmegaConfBaseException as error:
            words = str(error).splitlines()[0]
            raise RecordsError(f"{folder / CONFIG} cannot be read as a run's configuration: {words}") from error
        self.run = validate(cfg)
        self.setup = build_setup(cfg, self.run)
        self.named: dict[str, Measurement] = dict(zip(self.run.measurement, self.setup.measurements, strict=True))
        self.trained_with: dict[str, Any] = recorded.get("measurement") or {}
        self.device = device

    def measure(self) -> Tally:
        """Measure every finished member that lacks a table; what is recorded stays as it is.

        Raises:
            ConfigError: this machine has no such device, or computes wrongly on it.
        """
        tally = Tally()
        members = self._finished(tally)
        todo = [member for member in members if self._absent(member)]
        tally.complete = [member.seed for member in members if member not in todo]
        if tally.unfinished:
            log.info("  unfinished, skipped: %s", format_each_seed(tally.unfinished))
        self._say_recorded(members)
        if todo:
            self._measure_all(todo, tally)
        return tally

    def _finished(self, tally: Tally) -> list[FinishedMember]:
        found = []
        for seed in seeds_in(self.folder):
            try:
                is_finished = read_member_sheet(member_folder(self.folder, seed)).get("status") == "finished"
            except RecordsError as error:
                log.error("  seed %d: Error: %s", seed, error)  # noqa: TRY400, the words are all there is
                tally.failed.append(seed)
                continue
            if is_finished:
                found.append(FinishedMember(self.folder, seed, self.run))
            else:
                tally.unfinished.append(seed)
        return found

    def _measure_all(self, todo: Sequence[FinishedMember], tally: Tally) -> None:
        configure_torch(self.run)
        device = self._device(todo[0])
        check_kernels(self.setup, device, self.run)
        facts = {key: fact for key, fact in launch_facts(device, self.run).items() if key != "measurements"}
        _say_differences(todo, facts)
        for name, item in self.named.items():
            if isinstance(item, CostMeasurement):
                log.warning("  note: %s is that of this machine, now, whatever the run trained on", name)
        tally.num_unkept_steps = self._say_unkept_steps(todo)
        for member in todo:
            try:
                with members_locked(self.folder, [member.seed], "measured"), log_file(self.folder / LOG):
                    self._measure_member(member, device, facts)
                tally.measured.append(member.seed)
            except Exception as error:  # noqa: BLE001, one member's failure must not cost the others
                log.error("  seed %d: Error: %s", member.seed, self._words(error))  # noqa: TRY400, log.txt has it
                tally.failed.append(member.seed)

    def _measure_member(self, member: FinishedMember, device: str, facts: dict[str, Any]) -> None:
        started_at = time.time()
        todo = self._absent(member)  # another process may have measured some between the first look and the lock
        checkpoints = member.checkpoints()
        for name, item in todo.items():
            _refuse_nothing_to_see(name, item, member, checkpoints)
        tables = self._tables(todo, member, device, checkpoints)
        num_rows = {name: tables[name].num_rows if name in tables else 0 for name in todo}
        provenance = {
            item.table.name: {
                **facts,
                "measured_at_s": started_at,
                "settings": self.run.measurement[name],
                "checkpoints": [[one.phase, one.step] for one in checkpoints if member.is_due(item, one)],
                "num_rows": num_rows[name],
            }
            for name, item in todo.items()
        }
        member.keep({todo[name].table.name: table for name, table in tables.items()}, provenance, list(todo))
        each = ", ".join(f"{name} ({count} rows)" for name, count in num_rows.items())
        log.info("  seed %d: %s in %.2g s", member.seed, each, time.time() - started_at)

    def _tables(
        self, todo: dict[str, Measurement], member: FinishedMember, device: str, checkpoints: list[KeptCheckpoint]
    ) -> dict[str, pa.Table]:
        lead = {name: self.sheet[name] for name in RUN_COLUMNS} | {"seed": member.seed}
        found: dict[str, list[pa.Table]] = {}
        for name, checkpoint, rows in self._readings(todo, member, device, checkpoints):
            complete = rows.assign(**lead, step=checkpoint.step, phase=checkpoint.phase)
            found.setdefault(name, []).append(todo[name].table.to_arrow(complete))
        return {name: pa.concat_tables(parts) for name, parts in found.items()}

    def _readings(
        self, todo: dict[str, Measurement], member: FinishedMember, device: str, checkpoints: list[KeptCheckpoint]
    ) -> Iterator[tuple[str, KeptCheckpoint, pd.DataFrame]]:
        network = cast(Member(member.seed, self.setup.build_network).network, training_dtype(self.run), device)
        batch = probe_batch(self.setup.task, self.run.data_seed, self.run.probe_batch_size)
        for checkpoint in tqdm(checkpoints, f"  seed {member.seed}", leave=False, disable=None, unit="checkpoint"):
            due = {name: item for name, item in todo.items() if member.is_due(item, checkpoint)}
            if due:
                checkpoint.restore(network)
                probe = Probe(network, self.setup.task, batch, self.run.num_cuts)
            for name, item in due.items():
                rows = self._read(item, probe, network)
                if len(rows):
                    yield name, checkpoint, rows

    def _read(self, item: Measurement, probe: Probe, network: Network) -> pd.DataFrame:
        if isinstance(item, CostMeasurement):
            return item.read(program_of(network, self.setup, self.run))
        if isinstance(item, ProbeMeasurement):
            with own_surroundings(probe.batch.inputs.device):
                return item.read(probe)
        raise ConfigError(remedy([item.table.name], self.run.measurement))

    def _absent(self, member: FinishedMember) -> dict[str, Measurement]:
        return {name: item for name, item in self.named.items() if member.lacks(item)}

    def _device(self, member: FinishedMember) -> str:
        recorded = str(member.launch.get("device", self.run.device)).partition(":")[0]
        try:
            return resolve_device(self.device or recorded)
        except ConfigError as error:
            advice = "" if self.device else f"; {self.folder.name} was trained on it, and --device cpu measures it here"
            raise ConfigError(f"{error}{advice}") from error

    def _words(self, error: Exception) -> str:
        if isinstance(error, ConfigError | RecordsError):
            return str(error)
        return f"{type(error).__name__}: {error}; its traceback is in {self.folder / LOG}"

    def _say_recorded(self, members: Sequence[FinishedMember]) -> None:
        recorded: dict[str, list[str]] = {}
        for name, item in self.named.items():
            seeds = [member.seed for member in members if not member.lacks(item)]
            if seeds:
                recorded.setdefault(format_each_seed(seeds), []).append(name)
        for of_seeds, names in recorded.items():
            log.info("  already recorded, kept: %s of %s", ", ".join(names), of_seeds)
        for name, item in self.named.items():
            asked = self.run.measurement[name]
            known = [
                member.settings(item) or self.trained_with.get(name) for member in members if not member.lacks(item)
            ]
            changes = sorted({change for old in known if isinstance(old, dict) for change in _changes(old, asked)})
            if changes:
                log.warning("  note: %s was recorded with %s", name, "; ".join(changes))

    def _say_unkept_steps(self, todo: Sequence[FinishedMember]) -> int:
        """Say, and return, how many inner steps of a schedule have no checkpoint."""
        counts: dict[tuple[int, int], list[str]] = {}
        for name, item in self.named.items():
            scheduled = [(member, step) for member in todo if member.lacks(item) for step in member.inner_steps(item)]
            unkept = [step for member, step in scheduled if step not in member.kept_steps()]
            if unkept:
                counts.setdefault((len(unkept), len(scheduled)), []).append(name)
        for (num_unkept, num_scheduled), names in counts.items():
            words = "  note: no checkpoint at %d of %d inner steps of %s"
            log.warning(words, num_unkept, num_scheduled, ", ".join(names))
        return sum(num_unkept for num_unkept, _ in counts)


def _refuse_nothing_to_see(
    name: str, item: Measurement, member: FinishedMember, checkpoints: Sequence[KeptCheckpoint]
) -> None:
    if member.inner_steps(item) and not any(member.is_due(item, checkpoint) for checkpoint in checkpoints):
        raise RecordsError(
            f"{name} is scheduled at inner steps alone, and none of their checkpoints was kept; "
            "set `at_init`, `at_solved` or `at_last` of its schedule, whose checkpoints always are"
        )


def _sheet(folder: Path) -> dict[str, Any]:
    sheet = read_run_sheet(folder)
    if sheet.get("results_version") != RESULTS_VERSION:
        raise RecordsError(
            f"`results_version` must be {RESULTS_VERSION}, that of this code, got {sheet.get('results_version')}: "
            "numbers differ by a change listed in CHANGELOG.md under **Affects results**; measure with the code that "
            "trained it"
        )
    return sheet


def _say_differences(todo: Sequence[FinishedMember], facts: dict[str, Any]) -> None:
    """Say what is no longer as it was when the members were trained."""
    changes = []
    now = _comparable(facts)
    then = [_comparable(member.launch) for member in todo]
    for name, value in now.items():
        others = sorted({str(own[name]) for own in then} - {str(value)})
        if others:
            changes.append(f"{name} {', '.join(others)}, now {value}")
    if changes:
        log.warning("  note: trained with %s", "; ".join(changes))


def _changes(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in sorted(then.keys() | now.keys(), key=str):
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} {old}, now {new}")
    return found


def _comparable(launch: dict[str, Any]) -> dict[str, Any]:
    return {
        "commit": launch.get("commit"),
        "device": launch.get("device"),
        "torch": launch.get("versions", {}).get("torch"),
        **{what: launch.get(name) for name, what in SOURCES.items()},
    }
