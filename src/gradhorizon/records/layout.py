r"""Every name of a file or folder that a run writes: nobody else spells one.

A member (one seed of a run) owns a folder::

    runs/<experiment>/<run>/
        config.yaml  run.json  log.txt  output.txt  .run.lock  failed.json (while it is)
        seed-0/
            member.json  checkpoint.pt  .lock  .owner-<n>.json
            checkpoints/<phase>.pt  checkpoints/step-<step>.pt
            records/<table>.parquet                       once finished, or
            records/<table>/<first step>-<last step>.parquet   parts, while it trains

Beside the runs, ``runs/<experiment>/sweeps/`` holds what sweeps have asked for (`gradhorizon.runs.asked`). Imports
nothing but the standard library, so that those who only look start quickly.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

RUN_SHEET = "run.json"  # what a run is, and how it stands
CONFIG = "config.yaml"  # what a run was trained with
LOG = "log.txt"  # what a run has said
OUTPUT = "output.txt"  # what the process of a run has printed, where a launcher has redirected it
FAILURE = (
    "failed.json"  # why a run failed, until a later launch has started the members that it names, or they are done
)
SWEEPS = "sweeps"  # in an experiment's folder: what sweeps have asked for
MEMBER_SHEET = "member.json"  # how a member stands
CHECKPOINT = "checkpoint.pt"  # what a member goes on from
LOCK = ".lock"  # the file system's lock of a member
RUN_LOCK = ".run.lock"  # the file system's lock of a run's own files, held while one is written
RECORDS = "records"  # a member's tables
KEPT = "checkpoints"  # the networks that a member has kept
WANDB = "wandb"  # what W&B itself writes in a run's folder

_TABLE = ".parquet"
_MEMBER = re.compile(r"seed-(0|[1-9]\d{0,9})")
_IDENTITY = re.compile(r".+-([0-9a-f]{10})")
_PART = re.compile(r"(\d{8,10})-(\d{8,10})\.parquet")
_KEPT_STEP = re.compile(r"step-(\d{8,10})\.pt")
_OWNER = re.compile(r"\.owner-(\d{6,18})\.json")
_TEMPORARY = re.compile(r"\..+\.(\d{1,10})\.tmp")
_FAILED_BEFORE = ".failed.json"
_ASIDE = re.compile(r".+\.aside\d*")
_OF_THE_FILE_SYSTEM = "lost+found"
_HYDRA = "hydra"


def run_name(readable: str, identity: str) -> str:
    """Name of a run's folder.

    Args:
        readable: for people.
        identity: ten hexadecimal digits.
    """
    return f"{readable}-{identity}"


def identity_in(name: str) -> str | None:
    """The identity in the name of a run's folder, None where there is none."""
    found = _IDENTITY.fullmatch(name)
    return found[1] if found else None


def readable_in(name: str) -> str:
    """The part of a run folder's name that is for people."""
    identity = identity_in(name)
    return name if identity is None else name.removesuffix(f"-{identity}")


def member_name(seed: int) -> str:
    """Name of a member's folder."""
    return f"seed-{seed}"


def member_folder(run: Path, seed: int) -> Path:
    """Folder of the member with `seed` of the run in the folder `run`."""
    return run / member_name(seed)


def seed_in(name: str) -> int | None:
    """The seed in the name of a member's folder; None of any other name.

    Example:
        >>> seed_in("seed-12"), seed_in("seed-12.old"), seed_in("seed-012")
        (12, None, None)
    """
    found = _MEMBER.fullmatch(name)
    return int(found[1]) if found else None


def seeds_in(run: Path) -> list[int]:
    """Seeds of the members that have a folder in a run's folder, ascending; none if it is not there."""
    try:
        with os.scandir(run) as entries:
            found = [seed_in(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(seed for seed in found if seed is not None)


def table_path(member: Path, name: str) -> Path:
    """The whole table `name` of a member that has ended."""
    return member / RECORDS / f"{name}{_TABLE}"


def table_in(name: str) -> str | None:
    """The table in the name of a file of whole rows; None of any other name."""
    return name.removesuffix(_TABLE) if name.endswith(_TABLE) and _PART.fullmatch(name) is None else None


def run_of_table(path: Path) -> Path:
    """The folder of the run that a file of a table lies in; its own folder if it lies in none.

    Args:
        path: of the whole table, or of a part.

    Example:
        >>> run_of_table(part_path(Path("run/seed-0"), "gates", 0, 5)).name
        'run'
    """
    return next((folder.parent.parent for folder in path.parents[:2] if folder.name == RECORDS), path.parent)


def run_of_checkpoint(path: Path) -> Path:
    """The folder of the run that a checkpoint lies in.

    Args:
        path: of what a member goes on from, or of what it has kept.

    Example:
        >>> run_of_checkpoint(kept_path(Path("run/seed-0"), "init", 0)).name
        'run'
    """
    member = path.parent.parent if path.parent.name == KEPT else path.parent
    return member.parent if seed_in(member.name) is not None else member


def part_name(first_step: int, last_step: int) -> str:
    """File name of the part that covers a range of optimizer steps.

    Example:
        >>> part_name(0, 500)
        '00000000-00000500.parquet'
    """
    return f"{first_step:08d}-{last_step:08d}{_TABLE}"


def part_path(member: Path, table: str, first_step: int, last_step: int) -> Path:
    """A part of a member's table."""
    return member / RECORDS / table / part_name(first_step, last_step)


def steps_in(name: str) -> tuple[int, int] | None:
    """First and last optimizer step in the name of a part; None of any other name."""
    found = _PART.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def kept_path(member: Path, phase: str, step: int) -> Path:
    """The checkpoint that a member keeps at a moment.

    Args:
        member: its folder.
        phase: init, train, solved, last or diverged.
        step: optimizer steps completed.
    """
    return member / KEPT / (f"step-{step:08d}.pt" if phase == "train" else f"{phase}.pt")


def kept_step_in(name: str) -> int | None:
    """The optimizer step in the name of a checkpoint that was kept at a probe; None of any other name."""
    found = _KEPT_STEP.fullmatch(name)
    return int(found[1]) if found else None


def owner_path(member: Path, number: int) -> Path:
    """The claim `number` on a member."""
    return member / f".owner-{number:06d}.json"


def owner_in(name: str) -> int | None:
    """The number in the name of a claim; None of any other name."""
    found = _OWNER.fullmatch(name)
    return int(found[1]) if found else None


def unnumbered_owner_path(member: Path, token: str) -> Path:
    """A claim on a member that is not yet in its place."""
    return member / f".owner.{token}.tmp"


def clock_path(folder: Path, token: str) -> Path:
    """A file that is made to learn what time it is on the server of `folder`, and removed."""
    return folder / f".clock.{token}"


def temporary_path(path: Path) -> Path:
    """Where this process writes what is then renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file is one that a writer has not renamed yet."""
    return name.startswith(".") and name.endswith(".tmp")


def writer_in(name: str) -> int | None:
    """The process in the name of a file that is not yet renamed; None of any other name."""
    found = _TEMPORARY.fullmatch(name)
    return int(found[1]) if found else None


def is_of_a_process(name: str) -> bool:
    """Whether a file is a process's own (a lock, a claim, what is half-written) or was set aside: no record."""
    return name == LOCK or ".aside" in name or owner_in(name) is not None or is_temporary(name)


def probe_path(folder: Path) -> Path:
    """A file that is made to learn whether `folder` can be written, and removed."""
    return temporary_path(folder / "writable")


def own_folders(folder: Path) -> list[Path]:
    """`folder` and those above it that runs have made, the outermost first; none if no run makes such a one.

    Example:
        >>> [str(own) for own in own_folders(Path("runs/my/lstm-0123456789/seed-0/records"))]
        ['runs/my/lstm-0123456789', 'runs/my/lstm-0123456789/seed-0', 'runs/my/lstm-0123456789/seed-0/records']
    """
    found: list[Path] = []
    if folder.parent.name in (RECORDS, SWEEPS):
        found, folder = [folder], folder.parent
    if folder.name in (RECORDS, KEPT):
        found, folder = [folder, *found], folder.parent
    if seed_in(folder.name) is not None:
        found, folder = [folder, *found], folder.parent
    if identity_in(folder.name) is not None or folder.name == SWEEPS:
        found = [folder, *found]
    return found


def hydra_folder(experiment: Path) -> Path:
    """Where launchers that keep files of their own may put them."""
    return experiment / SWEEPS / _HYDRA


def is_skipped(name: str) -> bool:
    """Whether nobody looks for runs in a folder: it is hidden, set aside, or the file system's own.

    Example:
        >>> is_skipped(".old"), is_skipped("lstm-0123456789.aside"), is_skipped("lstm-0123456789")
        (True, True, False)
    """
    return name.startswith(".") or name == _OF_THE_FILE_SYSTEM or _ASIDE.fullmatch(name) is not None


def looks_like_a_member(name: str) -> bool:
    """Whether people may take something for a member, by its name.

    Example:
        >>> looks_like_a_member("copy of seed-0"), looks_like_a_member("log.txt")
        (True, False)
    """
    return "seed" in name.casefold() and not is_temporary(name)


def aside_path(path: Path) -> Path:
    """A name beside `path` that is free: nothing reads, and nothing overwrites, what lies there."""
    candidate, number = path.with_name(f"{path.name}.aside"), 1
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = path.with_name(f"{path.name}.aside{number}")
    return candidate


def asked_path(sweeps: Path, digest: str) -> Path:
    """Where it is written what a sweep asks for."""
    return sweeps / f"{digest}.json"


def failed_before_path(sweeps: Path, key: str) -> Path:
    """Where it is written why a run of a sweep failed that never had a folder."""
    return sweeps / f"{key}{_FAILED_BEFORE}"


def asked_files(sweeps: Path) -> list[Path]:
    """What sweeps have written down in the folder `sweeps`."""
    return sorted(path for path in sweeps.glob("*.json") if not path.name.endswith(_FAILED_BEFORE))


def logs_in(run: Path) -> list[str]:
    """Names of the files in a run's folder that tell why it failed."""
    return [name for name in (FAILURE, LOG, OUTPUT) if (run / name).is_file()]
