"""One model of the running generation with its arms, and an answer of it."""

from __future__ import annotations

import os
import typing

import msgspec

from edge_agent.generation import GenerationModel
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.wording import Wording
from edge_agent.records import CANDIDATE, INCUMBENT
from shared import experiment
from shared.features.compiled import Codes
from shared.metrics import get_metric
from shared.versions import parse_version

Row = typing.Mapping[str, object]
_UNIT_BYTES = 8


class ActiveModel:
    """One model of the running generation, with its arms.

    Parameters
    ----------
    entry : GenerationModel
        What the channel said.
    bundles : mapping
        Version to the loaded bundle.
    device : str
        Decides whether this device takes part in the experiment.

    Attributes
    ----------
    share_bp, draw_bp : int
        Share of requests that each candidate answers; share of lists that it takes part in.
    by_arm, told : tuple
        By number of the arm: its bundle; and what records of its answers begin with, and the seconds it may take.
    """

    def __init__(self, entry: GenerationModel, bundles: typing.Mapping[str, LoadedBundle], device: str) -> None:
        self.entry = entry
        self.bundles = bundles
        self.incumbent = bundles[entry.incumbent]
        self.candidates = {arm: bundles[version] for arm, version in entry.candidates.items()}
        self.columns = frozenset[str]().union(*(bundle.encoder.columns for bundle in bundles.values()))
        trial = entry.experiment
        in_stage = trial is not None and experiment.in_stage(trial.salt, device, trial.device_share_bp)
        self.takes_part = in_stage and bool(self.candidates)
        mode = trial.mode if trial and self.takes_part else None
        # Without a candidate it is the control group's, whose answers count for the stage too.
        self.epoch = trial.epoch if trial and (self.takes_part or not self.candidates) else 0
        self.share_bp = trial.request_share_bp if trial and mode == "canary" else 0
        self.draw_bp = trial.request_share_bp if trial and mode == "interleave" else 0
        self.salt = trial.salt if trial else ""
        self.scores_other = bool(trial and (mode == "shadow" or (mode == "canary" and trial.keep_pairs)))
        self.tag = experiment.model_tag(entry.model)
        manifest = self.incumbent.manifest
        self.judges_lists = get_metric(manifest.metric, manifest.task).of_lists
        self.keeps_outputs = self.incumbent.manifest.task == "multiclass"
        self.arms = {INCUMBENT: self.incumbent} | self.candidates
        # Where there are two, each one's other.
        self.beside = dict(zip(self.arms, reversed(self.arms), strict=True))
        # By number of the arm; a number that no candidate has is never drawn.
        n_arms = max(*self.arms, CANDIDATE) + 1
        self.by_arm = tuple(self.candidates.get(arm, self.incumbent) for arm in range(n_arms))
        self.one_encoding = len({_encoding(bundle) for bundle in self.by_arm}) == 1
        self.shares = experiment.Shares(self.salt)
        self._arm_at = _arms_by_place(self.share_bp or self.draw_bp, self.candidates)
        self.wordings = tuple(Wording(bundle.manifest, arm) for arm, bundle in enumerate(self.by_arm))
        self.told = tuple(
            (entry.model, bundle.version, self.epoch, bundle.manifest.budgets.predict_s) for bundle in self.by_arm
        )
        self.write_id: tuple[experiment.Write, ...] = ()

    def prepare(self, sealer: experiment.Sealer) -> None:
        """Get ready to write prediction ids."""
        self.write_id = tuple(sealer.writer(self.tag, parse_version(bundle.version)) for bundle in self.by_arm)

    def bundle(self, arm: int) -> LoadedBundle:
        """Return the bundle of an arm."""
        return self.by_arm[arm]

    def arm_of(self, unit: str) -> int:
        """Return the arm of a unit: the one that answers it, or whose candidate its lists are drawn from."""
        return self._arm_at[self.shares(unit)]

    def unit_of(self, unit: str | None) -> str | None:
        """Return whom a row is for; where that picks the arm, a row for nobody is its own, each time it is asked."""
        return unit or (os.urandom(_UNIT_BYTES).hex() if self.share_bp else None)

    @property
    def is_prompt(self) -> bool:
        """Whether no arm has to be waited for."""
        return all(bundle.is_loaded.is_set() and not bundle.is_slow for bundle in self.by_arm)


def _encoding(bundle: LoadedBundle) -> tuple[object, ...]:
    """What must be the same for codes to mean the same: of an item in a list, where each value comes from, too."""
    lists = bundle.manifest.lists
    return bundle.manifest.features_sha256, lists and (lists.item, lists.columns)


def _arms_by_place(share_bp: int, arms: typing.Container[int]) -> bytes:
    """`experiment.arm_of` of all places, so that a request looks it up."""
    if not share_bp:
        return b""
    blocks = range(0, experiment.BASIS_POINTS, share_bp)
    return b"".join(bytes([experiment.arm_of(place, share_bp, arms)]) * share_bp for place in blocks)


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """An answer, and what is needed to record it once the reply is out.

    `asked` is the arm whose turn it was: another one than `arm` has failed, and the incumbent answered in its place.
    """

    active: ActiveModel
    row: Row
    codes: Codes
    arm: int
    outputs: tuple[float, ...]
    source: int
    prediction_id: str
    nonce: bytes
    event_s: int
    latency_s: float
    asked: int

    @property
    def bundle(self) -> LoadedBundle:
        """The bundle that answered."""
        return self.active.bundle(self.arm)

    @property
    def score(self) -> float:
        """The answer's main number: probability of the second class, or the value of a regression."""
        return main_score(self.outputs)


def main_score(outputs: tuple[float, ...]) -> float:
    """Probability of the second class for two classes, else the first output."""
    return outputs[1] if len(outputs) == 2 else outputs[0]  # noqa: PLR2004 - two classes
