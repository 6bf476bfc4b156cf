"""The tables of a project, as ordered transactional migrations of sqlite-utils."""

from __future__ import annotations

import sqlite_utils
from sqlite_utils.migrations import Migrations

migrations = Migrations("covey")


def _run(db: sqlite_utils.Database, script: str) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            db.execute(statement)


@migrations(name="0001-data-and-models")
def _data_and_models(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
create table meta (key text primary key, value) without rowid;
create table parts (sha256 text primary key, dataset text not null, position integer not null, rows integer not null,
    bytes integer not null, from_s real not null, to_s real not null, added_s real not null, source text not null,
    report text not null, unique (dataset, position));
create table data_versions (version text primary key, dataset text not null, n_parts integer not null,
    rows integer not null, created_s real not null);
create table model_versions (model text not null, version text not null, kind text not null, parent text not null,
    status text not null check (status in ('training', 'refused', 'failed', 'ready')), why text not null,
    data_version text not null, features text not null, features_sha256 text not null, manifest_sha256 text not null,
    detail text not null, created_s real not null, primary key (model, version));
create table incumbents (model text not null, region text not null, version text not null, since_s real not null,
    primary key (model, region)) without rowid;
create table jobs (id integer primary key, model text not null, kind text not null, arguments text not null,
    why text not null, state text not null check (state in ('queued', 'running', 'done', 'failed')),
    pid integer not null, created_s real not null, ended_s real not null, result text not null);
create table triggers_fired (id integer primary key, model text not null, name text not null, at_s real not null,
    event_day integer not null, value real not null, detail text not null);
create table audit (id integer primary key, at_s real not null, actor text not null, action text not null,
    subject text not null, reason text not null, detail text not null);
create trigger audit_is_append_only_update before update on audit begin select raise(abort, 'append-only'); end;
create trigger audit_is_append_only_delete before delete on audit begin select raise(abort, 'append-only'); end
""",
    )


@migrations(name="0002-fleet-and-evidence")
def _fleet_and_evidence(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
create table join_tokens (id text primary key, secret_sha256 text not null, region text not null,
    uses_left integer not null, expires_s real not null, created_s real not null) without rowid;
create table devices (device text primary key, region text not null, public_key text not null,
    status text not null check (status in ('accepted', 'retired')), joined_s real not null,
    seen_s real not null, online_since_s real not null, generation text not null, generation_state text not null,
    watermark_s real not null, moved_s real not null, channel_sequence integer not null, report text not null,
    report_key text not null) without rowid;
create index devices_by_region on devices (region);
create table inbox (device text not null, spool text not null, sequence integer not null, at_s real not null,
    primary key (device, spool, sequence)) without rowid;
create table sums (device text not null, model text not null, version text not null, epoch integer not null,
    arm integer not null, served integer not null, day integer not null, requests integer not null,
    precomputed integer not null, onnx integer not null, fallback integer not null, failed integer not null,
    timed_out integer not null, outcomes integer not null, metric_sum integer not null, metric_sumsq integer not null,
    excess_sum integer not null, positives integer not null, score_bins blob not null, latency_bins blob not null,
    primary key (device, model, version, epoch, arm, served, day)) without rowid;
create index sums_by_epoch on sums (model, epoch);
create index sums_by_day on sums (model, day);
create table pairs (device text not null, model text not null, epoch integer not null, day integer not null,
    n integer not null, sum integer not null, sumsq integer not null, pos integer not null, neg integer not null,
    primary key (model, epoch, device, day)) without rowid;
create table device_events (id integer primary key, device text not null, at_s real not null, kind text not null,
    detail text not null, received_s real not null);
create index device_events_by_time on device_events (received_s)
""",
    )


@migrations(name="0003-rollouts")
def _rollouts(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
create table rollouts (id integer primary key, model text not null, from_version text not null,
    to_version text not null, state text not null
    check (state in ('running', 'promoted', 'rolled_back', 'aborted', 'undone')), paused integer not null,
    plan text not null, salt text not null, why text not null, created_s real not null, created_day integer not null,
    ended_s real not null, ended_day integer not null, outcome text not null);
create unique index one_running_rollout on rollouts (model) where state = 'running';
create table stages (id integer primary key autoincrement, rollout integer not null references rollouts (id),
    position integer not null, kind text not null check (kind in ('install', 'shadow', 'canary')), region text not null,
    opened_s real not null, opened_day integer not null, passed_s real not null, passed_day integer not null,
    verdict text not null check (verdict in ('WAITING', 'HOLD', 'PASS', 'FAIL')), why text not null,
    unique (rollout, position));
create table verdicts (id integer primary key, rollout integer not null, stage integer not null, at_s real not null,
    event_day integer not null, word text not null, reasons text not null, inputs text not null);
create index verdicts_by_stage on verdicts (stage);
create table orders (id integer primary key, rollout integer not null, action text not null
    check (action in ('pause', 'resume', 'abort', 'undo')), actor text not null, reason text not null,
    created_s real not null, done_s real not null, result text not null);
create table channels (region text primary key, sequence integer not null, body blob not null,
    published_s real not null) without rowid
""",
    )


@migrations(name="0004-what-a-batch-said")
def _what_a_batch_said(db: sqlite_utils.Database) -> None:
    # Empty for the batches that came before: what they said is not known any more.
    db.execute("alter table inbox add column sha256 text not null default ''")


@migrations(name="0005-enrolment")
def _enrolment(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
alter table join_tokens add column approve integer not null default 0;
create table devices_anew (device text primary key, region text not null, public_key text not null,
    status text not null check (status in ('preauthorised', 'pending', 'accepted', 'rejected', 'retired')),
    joined_s real not null, seen_s real not null, online_since_s real not null, generation text not null,
    generation_state text not null, watermark_s real not null, moved_s real not null, channel_sequence integer not null,
    report text not null, report_key text not null, previous_key text not null, rotate integer not null) without rowid;
insert into devices_anew select *, '', 0 from devices;
drop table devices;
alter table devices_anew rename to devices;
create index devices_by_region on devices (region);
create index devices_by_key on devices (public_key);
create index device_events_by_device on device_events (device, received_s)
""",
    )


@migrations(name="0006-plans-with-steps")
def _plans_with_steps(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
alter table stages add column settings text not null default '{}';
alter table stages add column approved_s real not null default 0;
create table orders_anew (id integer primary key, rollout integer not null, action text not null
    check (action in ('pause', 'resume', 'abort', 'undo', 'approve')), actor text not null, reason text not null,
    created_s real not null, done_s real not null, result text not null);
insert into orders_anew select * from orders;
drop table orders;
alter table orders_anew rename to orders
""",
    )


@migrations(name="0007-several-candidates")
def _several_candidates(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
create table candidates (rollout integer not null references rollouts (id), arm integer not null,
    version text not null, state text not null check (state in ('running', 'dropped', 'promoted')),
    why text not null, ended_s real not null, ended_day integer not null,
    primary key (rollout, arm), unique (rollout, version)) without rowid;
insert into candidates select id, 1, to_version,
    case state when 'running' then 'running' when 'promoted' then 'promoted' when 'undone' then 'promoted'
        else 'dropped' end,
    case state when 'running' then '' else outcome end, ended_s, ended_day from rollouts;
create table pairs_anew (device text not null, model text not null, epoch integer not null, arm integer not null,
    day integer not null, n integer not null, sum integer not null, sumsq integer not null, pos integer not null,
    neg integer not null, primary key (model, epoch, arm, device, day)) without rowid;
insert into pairs_anew select device, model, epoch, 1, day, n, sum, sumsq, pos, neg from pairs;
drop table pairs;
alter table pairs_anew rename to pairs;
alter table verdicts add column arm integer not null default 1
""",
    )


@migrations(name="0008-measures")
def _measures(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
create table measures (device text not null, model text not null, version text not null, epoch integer not null,
    arm integer not null, served integer not null, day integer not null, name text not null, scale real not null,
    n integer not null, sum integer not null, sumsq integer not null,
    primary key (device, model, version, epoch, arm, served, day, name, scale)) without rowid;
create index measures_by_epoch on measures (model, epoch)
""",
    )


@migrations(name="0009-pins-and-ramps")
def _pins_and_ramps(db: sqlite_utils.Database) -> None:
    # Stages of before took all of their devices at once.
    _run(
        db,
        """
create table pins (model text not null, device text not null, version text not null, actor text not null,
    reason text not null, since_s real not null, primary key (model, device)) without rowid;
create index pins_by_device on pins (device);
alter table stages add column reached_bp integer not null default 10000;
alter table stages add column grown_s real not null default 0;
alter table channels add column told_s real not null default 0;
update channels set told_s = published_s
""",
    )


@migrations(name="0010-growth")
def _growth(db: sqlite_utils.Database) -> None:
    # When each share was reached: [[basis points, time], ...].
    db.execute("alter table stages add column growth text not null default '[]'")


@migrations(name="0011-hooks")
def _hooks(db: sqlite_utils.Database) -> None:
    _run(
        db,
        """
create table hooks (name text primary key, told integer not null, tries integer not null, next_s real not null,
    error text not null, told_s real not null, given_up integer not null) without rowid;
create table questions (id integer primary key, rollout integer not null references rollouts (id),
    stage integer not null, hook text not null, state text not null check (state in ('open', 'agreed')),
    words text not null, actor text not null, tries integer not null, next_s real not null, asked_s real not null,
    answered_s real not null, unique (rollout, stage, hook))
""",
    )


@migrations(name="0012-labels-and-steps-by-count")
def _labels_and_steps_by_count(db: sqlite_utils.Database) -> None:
    # A stage of which the share was not worked out when it opened has the one of its settings: -1.
    _run(
        db,
        """
alter table devices add column labels text not null default '{}';
alter table join_tokens add column labels text not null default '{}';
alter table stages add column target_bp integer not null default -1;
alter table stages add column taken integer not null default 0
""",
    )


@migrations(name="0013-devices-set-aside")
def _devices_set_aside(db: sqlite_utils.Database) -> None:
    # What a device failed at, once for each version; and which devices no rollout asks for a while.
    _run(
        db,
        """
create table failures (model text not null, version text not null, device text not null, day integer not null,
    counts integer not null, stands integer not null, why text not null, at_s real not null,
    primary key (model, version, device)) without rowid;
create index failures_by_device on failures (device);
create table aside (device text primary key, since_s real not null, from_day integer not null,
    until_day integer not null, least integer not null, why text not null, kept text not null) without rowid
""",
    )
