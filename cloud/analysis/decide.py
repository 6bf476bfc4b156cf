"""The decision rule: continue, promote or roll back, from cumulative sums alone."""

from __future__ import annotations

import math

from cloud.analysis.contrast import Contrast, combine, has_data, stratum_contrast
from cloud.analysis.counts import Count, log_e_below, log_e_fewer, log_e_more
from cloud.analysis.missing import Missing, find_missing
from cloud.analysis.mixture import log_e_grid, log_e_value, log_mean_exp
from cloud.analysis.ratio import clustered_spread
from cloud.analysis.records import Arm, DecideInput, Decision, Metric, Stratum, Word
from cloud.analysis.tails import z_from_t

_RARE = 0.03


def log_e_worse(c, margin):
    s = math.sqrt(c.variance)
    z = z_from_t(-c.x / s, c.df)
    import os

    if os.environ.get("OLD"):
        return log_mean_exp((log_e_value(z, 1.5 * margin / s), log_e_value(z, 6 * margin / s)), (0.5, 0.5))
    return log_e_grid(z, margin / s)


def log_e_good(c, margin):
    s = math.sqrt(c.variance_worse)
    z = z_from_t((c.x + margin) / s, c.df)
    return log_e_value(z, margin / s)


def bad(arm, metric):
    return arm.n - arm.sum if metric.direction == "higher" else arm.sum


def design(arm):
    p = arm.sum / arm.n
    var = p * (1 - p) / arm.n
    if var <= 0:
        return 1.0
    sp = clustered_spread(arm.n, arm.sum, arm.g, arm.g_nn, arm.g_ns, arm.g_ss)
    return max(1.0, sp.variance / var)


def rare_logs(strata, excess, metric, margin):
    d = max(max(design(s.control), design(s.candidate)) for s in strata)
    more, fewer, n1, f1 = [], [], 0.0, 0.0
    for s, e in zip(strata, excess):
        b0, b1, odds = bad(s.control, metric), bad(s.candidate, metric) + e, (s.candidate.n + e) / s.control.n
        more.append(Count(b0 / d, b1 / d, odds))
        p0 = (b0 + 2) / (s.control.n + 4)
        fewer.append(Count(b0 / d, b1 / d, odds * (p0 + margin) / p0))
        n1 += s.candidate.n + e
        f1 += b1
    good = log_mean_exp((log_e_fewer(fewer), log_e_below(n1 / d, f1 / d, margin)), (0.8, 0.2))
    return log_e_more(more), good


def evidence_logs(strata, excess, metric, margin):
    keep = [(s, e) for s, e in zip(strata, excess) if has_data(s)]
    if not keep:
        return -math.inf, -math.inf
    if metric.kind == "bernoulli":
        n0 = sum(s.control.n for s, _ in keep)
        if sum(bad(s.control, metric) for s, _ in keep) < _RARE * n0:
            return rare_logs([s for s, _ in keep], [e for _, e in keep], metric, margin)
    parts = [stratum_contrast(s, metric, margin, e) for s, e in keep]
    c = combine([p for p in parts if p])
    if c is None:
        return -math.inf, -math.inf
    return log_e_worse(c, margin), log_e_good(c, margin)


def pairs_logs(i):
    p = i.pairs
    if p.n < 1:
        return -math.inf, -math.inf
    sp = clustered_spread(p.n, p.sum, p.g, p.g_nn, p.g_ns, p.g_ss)
    if p.days is not None:
        d = p.days
        sd = clustered_spread(p.n, p.sum, d.g, d.nn, d.ns, d.ss)
        if sd.variance > sp.variance and sd.df > 0:
            sp = sd
    if sp.df <= 0:
        return -math.inf, -math.inf
    v = sp.variance
    m = i.margin
    if i.metric.kind == "bernoulli":
        v = max(v, (p.pos + p.neg + 1) / p.n**2)
        w = max(v, m * (1 - m) / p.n)
    else:
        v = w = max(v, (m / p.n) ** 2)
    c = Contrast(p.sum / p.n, v, w, sp.df, p.n)
    good = log_e_good(c, m)
    if i.metric.kind == "bernoulli":
        good = log_mean_exp((good, log_e_below(p.n, p.neg, m)), (0.8, 0.2))
    return log_e_worse(c, m), good


def decide(i: DecideInput) -> Decision:
    use_pairs = i.pairs is not None and i.mode != "ab"
    ev = i.strata if i.matured is None else i.matured
    K = i.n_candidates
    lim_r, lim_p = math.log(K / i.alpha), math.log(K / i.alpha_promote)
    miss = find_missing(i.strata, ev, i.assigned, pending=i.matured is not None, one_candidate=K == 1)
    zero = (0.0,) * len(ev)
    if use_pairs:
        worse, good = pairs_logs(i)
        n = i.pairs.n
        gs = i.pairs.g
    else:
        counts = miss.excess if i.metric.kind == "bernoulli" else zero
        worse, good = evidence_logs(ev, counts, i.metric, i.margin)
        if any(counts) and miss.log_e < lim_p:
            worse, _ = evidence_logs(ev, zero, i.metric, i.margin)
        n = sum(s.candidate.n for s in ev)
        gs = min(max((s.candidate.g for s in ev), default=0), max((s.control.g for s in ev), default=0))
    word = "continue"
    if worse >= lim_r:
        word = "rollback"
    elif (
        good >= lim_p
        and n >= i.minimum.outcomes
        and gs >= i.minimum.devices
        and miss.log_e < lim_p
        and miss.log_e_split < lim_p
    ):
        word = "promote"
    return Decision(word, (), {"worse": worse, "good": good}, {})
