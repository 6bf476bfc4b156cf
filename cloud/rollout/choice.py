"""Of one candidate or several: what a stage makes of their verdicts, who is dropped, and who is promoted. Pure."""

from __future__ import annotations

import typing

from cloud.rollout.quality import PREFERENCE, preferred
from cloud.rollout.verdict import Verdict, Word

Verdicts = typing.Mapping[int, Verdict]  # by arm, of the candidates that run
Names = typing.Mapping[int, str]  # arm to version, of all candidates


class Stage(typing.NamedTuple):
    """What a stage makes of the verdicts on its candidates."""

    word: Word
    why: str


def names_of(rollout: typing.Mapping[str, typing.Any]) -> dict[int, str]:
    """Return the version of each arm."""
    return {candidate["arm"]: candidate["version"] for candidate in rollout["candidates"]}


def failing(verdicts: Verdicts) -> list[int]:
    """Arms that are proven bad."""
    return [arm for arm, verdict in verdicts.items() if verdict.word == "FAIL"]


def settle(verdicts: Verdicts, names: Names) -> Stage:
    """Say what becomes of a stage, none of whose candidates is proven bad: it passes when all of them do."""
    word: Word = "PASS" if all(verdict.word == "PASS" for verdict in verdicts.values()) else "HOLD"
    whys = {arm: "; ".join(verdict.reasons) for arm, verdict in verdicts.items()}
    if len(set(whys.values())) == 1:
        return Stage(word, next(iter(whys.values())))
    return Stage(word, "; ".join(f"{names[arm]}: {why}" for arm, why in whys.items()))


def spoken(sentences: typing.Iterable[str], names: Names, arm: int) -> list[str]:
    """Return sentences about a candidate, with its name in front where there are several."""
    return [f"{names[arm]}: {said}" if len(names) > 1 else said for said in sentences]


def held(verdicts: Verdicts) -> list[int]:
    """Arms that a stage waits for while another could go on."""
    waiting = [arm for arm, verdict in verdicts.items() if verdict.word != "PASS"]
    return waiting if len(waiting) < len(verdicts) else []


def gain_of(verdict: Verdict) -> float:
    """Mean gain over the incumbent, in the units of the question that promotes; nothing compared is no gain."""
    numbers: dict[str, float] = verdict.inputs.get("decision", {}).get("numbers", {})
    return numbers.get("difference", 0.0)


def best(verdicts: Verdicts, *, is_last_day: bool = False) -> int | None:
    """Return the arm to promote, once every stage has passed: the one that gains most, as soon as it is proven.

    Each candidate is proven at alpha over the number that began, so picking one of the proven ones errs no more often.

    Parameters
    ----------
    is_last_day : bool
        The rollout ends today: of those that are proven the best is taken, though another may look better.
    """
    order = sorted(verdicts, key=lambda arm: (-gain_of(verdicts[arm]), arm))
    proven = [arm for arm in order if verdicts[arm].promote]
    return proven[0] if proven and (proven[0] == order[0] or is_last_day) else None


def beaten_by(verdicts: Verdicts, names: Names, winner: int, arm: int) -> str:
    """Say why a candidate that was not bad is dropped."""
    if gain_of(verdicts[winner]) >= gain_of(verdicts[arm]):
        return f"{names[winner]} was better: {gain_of(verdicts[winner]):+.4g} against {gain_of(verdicts[arm]):+.4g}"
    return f"{names[winner]} was proven, and this was not"


def proof_of(verdict: Verdict, candidate: str, incumbent: str) -> str:
    """Say what a promotion rests on."""
    inputs = verdict.inputs
    said = list(inputs["decision"]["reasons"])
    if inputs.get("question") == PREFERENCE:
        seen = inputs["decide"]["pairs"]
        said.insert(1, preferred(seen["n"], seen["pos"], seen["neg"], candidate, incumbent))
    return "; ".join(said)
