"""What the JSON files of a run hold: types and ranges, and what older versions have not written.

Unknown keys are let pass, as another version may have written them; a file that carries its digest has none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradhorizon.terminal.words import shortened

_LARGEST = 2**31 - 1
_MOST_SHOWN = 80  # characters of a wrong value
_DIGEST = "digest"

Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Seed = Annotated[int, Field(ge=0, le=_LARGEST)]
Count = Annotated[int, Field(ge=1, le=_LARGEST)]
Steps = Annotated[int, Field(ge=0, le=_LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{10}$")]
SeedKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
Status = Literal["running", "finished", "failed"]
End = Literal["solved", "budget exhausted", "diverged"]


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Launch(_Content):
    """What was true of a launch."""

    seeds: Annotated[list[Seed], Field(default_factory=list)]
    device: Text | None = None
    commit: Text | None = None
    precision: Text | None = None
    num_threads: Count | None = None
    cell_source: Text | None = None
    task_source: Text | None = None
    optimizer_source: Text | None = None
    versions: Annotated[dict[str, Text], Field(default_factory=dict)]
    measurements: Annotated[list[Text], Field(default_factory=list)]
    measuring_s: Annotated[dict[str, Finite], Field(default_factory=dict)]
    started_at_s: Finite | None = None
    wall_s: Finite | None = None


class Outcome(_Content):
    """How a member stands."""

    status: Status
    outcome: End | None
    outcome_step: Steps | None

    @model_validator(mode="after")
    def _says_how_it_ended(self) -> Outcome:
        if self.status == "finished" and None in (self.outcome, self.outcome_step):
            raise ValueError("must say in `outcome` and `outcome_step` how a finished member ended")
        return self


class CommittedFile(_Content):
    """A file that belongs to a member."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)] | None = None
    commits: Annotated[int, Field(ge=1)] = 1


class LaterTable(_Content):
    """Where a table comes from that was measured after the training."""

    num_rows: Annotated[int, Field(ge=0)]
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]
    versions: Annotated[dict[str, Text], Field(default_factory=dict)]


class RunSheet(_Content):
    """``run.json``."""

    experiment: Name
    run: Name
    identity: Identity
    results_version: Count
    model: Name
    task: Name
    seq_len: Steps
    input_len: Steps
    chance: Annotated[dict[str, Finite], Field(description="an object of numbers")]
    num_parameters: Annotated[int, Field(ge=0)]
    hidden_size: Count
    num_steps: Count
    clip_norm: Annotated[float, Field(gt=0)] | None
    color: Text | None
    marker: Text | None
    status: Status
    variant: Text = ""
    solved_levels: Annotated[dict[str, float], Field(default_factory=dict, description="an object of numbers")]
    outcomes: Annotated[dict[SeedKey, Outcome], Field(default_factory=dict)]
    launches: Annotated[list[Launch], Field(default_factory=list, description="a list of launches")]
    seeds: Annotated[list[Seed], Field(default_factory=list, description="a list of seeds")]
    files: Annotated[dict[str, CommittedFile], Field(default_factory=dict)]
    digest: Text | None = None


class MemberSheet(Outcome):
    """``member.json``."""

    seed: Seed
    step: Steps
    launch: Annotated[Launch, Field(description="an object")]
    launches: Annotated[list[Launch], Field(default_factory=list, description="a list of launches")]
    measured_later: Annotated[dict[str, LaterTable], Field(default_factory=dict)]
    identity: Identity | None = None
    files: Annotated[dict[str, CommittedFile], Field(default_factory=dict)]
    superseded: Annotated[dict[str, CommittedFile], Field(default_factory=dict)]
    sealed_at_s: Finite | None = None
    digest: Text | None = None


class FailureSheet(_Content):
    """``failed.json``."""

    reason: str = ""
    phase: str = ""
    seeds: Annotated[list[Seed], Field(default_factory=list)]
    overrides: Annotated[list[str], Field(default_factory=list)]
    traceback: Annotated[list[str], Field(default_factory=list)]
    last_lines: Annotated[list[str], Field(default_factory=list)]
    failed_at_s: float | None = None
    digest: Text | None = None


class AskedSheetRun(_Content):
    """A run that a sweep has asked for."""

    key: Name
    title: Text
    overrides: list[Text]
    identities: list[Text]
    run: Name
    seeds: list[Seed]
    model: Text | None
    task: Text | None
    seq_len: int | None
    num_steps: int | None


class AskedSheet(_Content):
    """A file of ``sweeps/``."""

    runs: Annotated[list[AskedSheetRun], Field(description="a list of runs")]
    schema_: Annotated[int, Field(alias="schema")] = 1
    asked_at_s: Finite | None = None
    digest: Text | None = None


_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "a list",
}


def problem_of(content: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """What is wrong with the content of a file, in one line; empty if nothing is.

    Args:
        content: as it was read.
        kind: its schema.

    Example:
        >>> problem_of({"status": "running", "outcome": None, "outcome_step": -1}, Outcome)
        '`outcome_step` must be greater than or equal to 0, got -1'
        >>> problem_of({"outcome": None, "outcome_step": None}, Outcome)
        'lacks `status`'
    """
    try:
        found = kind.model_validate(content)
    except ValidationError as error:
        return _words(error.errors(include_url=False)[0], kind)
    is_whole = isinstance(found, RunSheet | MemberSheet | AskedSheet)  # launchers add facts of their own to a failure
    if is_whole and content.get(_DIGEST) is not None and found.model_extra:
        return f"has the unknown key `{min(found.model_extra)[:_MOST_SHOWN]}`, and was sealed without it"
    return ""


def _words(error: Mapping[str, Any], kind: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")[:_MOST_SHOWN] or "outcome"
    if error["type"] == "value_error":
        return f"`{key}` {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"lacks `{key}`"
    field = kind.model_fields.get(str(error["loc"][0])) if len(error["loc"]) == 1 else None
    expected = (field.description if field is not None else None) or _EXPECTED.get(error["type"])
    demand = f"must be {expected}" if expected else _from_library(error["msg"])
    return f"`{key}` {demand}, got {_shown(error['input'])}"


def _from_library(words: str) -> str:
    _, is_demand, rest = words.partition(" should ")
    return f"must {rest}" if is_demand else words


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return shortened(json.dumps(value, default=str), _MOST_SHOWN)
