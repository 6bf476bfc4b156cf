"""``[models.NAME]``: data, estimator, gates, precomputed answers and triggers of a model."""

from __future__ import annotations

import typing

import msgspec

from cloud.config.table import AtLeastOne, Count, Days, NotNegative, Number, Params, Positive, Ratio, Table
from shared.bundle import MAX_ITEMS, MAX_LIST, AnswerOrder, NumberName
from shared.metrics import Task, usual_metric

NETWORKS = ("MLPClassifier", "MLPRegressor")


class StepSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a Pipeline: a dotted class name and its parameters."""

    estimator: str
    params: Params = msgspec.field(default_factory=dict)


class FinetuneSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.finetune]``: stateful training.

    Parameters
    ----------
    epochs : int
        Passes over the new rows.
    replay_ratio : float
        Old rows mixed in for each new one, against forgetting.
    batch_size : int
        Rows in a call of partial_fit.
    """

    epochs: AtLeastOne = 1
    replay_ratio: NotNegative = 1.0
    batch_size: AtLeastOne = 200


class GateSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.gate]``: what a model must pass before it is signed.

    Parameters
    ----------
    worse_by : float
        How much worse than the incumbent it may be on the hold-out, in units of the metric.
    forget_by, anchor_rows : float, int
        How much worse than the incumbent it may be on anchors: so many older rows of the model's own data, spread over
        all of their time.
    parity_rows, parity_tolerance, parity_mismatch_ratio : int, float, float
        The exported model must say what the trained one says: so many rows, so close, so many exceptions.
    """

    worse_by: NotNegative = 0.01
    forget_by: NotNegative = 0.01
    anchor_rows: AtLeastOne = 5000
    parity_rows: typing.Annotated[int, msgspec.Meta(ge=10_000)] = 10_000
    parity_tolerance: Positive = 1e-5
    parity_mismatch_ratio: Ratio = 0.0


class PrecomputeSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.precompute]``: answers made in the cloud.

    Parameters
    ----------
    budget_bytes : int
        Size of the table; 0 makes none.
    teacher, teacher_params : str, dict
        An estimator that stays in the cloud and gives the table's answers in place of the exported model.
    coarse : list
        Features of a second, much smaller table: what is answered, marked as approximate, where a device has neither
        a precomputed answer nor a model that works.
    coarse_budget_bytes : int
        Size of that table.
    """

    budget_bytes: Count = 1 << 20
    teacher: str = ""
    teacher_params: Params = msgspec.field(default_factory=dict)
    coarse: tuple[str, ...] = ()
    coarse_budget_bytes: Count = 1 << 16


class ListSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.lists]``: the best items for a context, put in order in the cloud.

    Parameters
    ----------
    item : str
        Column of the data that names an item; without it there are no lists. It need not be a feature.
    columns : list
        Further columns that are an item's own, such as its price. Features that read any other column are the
        context's, and a device is sent them when it is asked for a list.
    length : int
        Items in a list.
    max_items : int
        Of more items than that the most frequent stay. A device can score 10,000 of them itself.
    budget_bytes : int
        Size of the catalogue and the lists together; it decides how many contexts have a list.
    """

    item: str = ""
    columns: tuple[str, ...] = ()
    length: typing.Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST)] = 20
    max_items: typing.Annotated[int, msgspec.Meta(ge=1, le=MAX_ITEMS)] = 1000
    budget_bytes: Count = 1 << 20


class BudgetSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.budgets]``: what the model may cost on a device.

    Parameters
    ----------
    size_bytes : int
        All files of the bundle together; a larger one is not signed. 0 is no limit.
    memory_bytes : int
        What loading and answering may take on a device; more fails the self-test.
    load_s : float
        How long loading may take there; longer fails the self-test.
    predict_s : float
        How long an answer may take: a longer median fails the self-test, a longer answer counts as slow.
    """

    size_bytes: Count = 0
    memory_bytes: AtLeastOne = 1 << 30
    load_s: Positive = 60.0
    predict_s: Positive = 1.0


class VariantSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[models.NAME.variant]]``: the same version in another form, for devices that the standard one does not fit.

    Parameters
    ----------
    name : str
        What devices call it.
    kind : str
        ``int8``: dense layers in 8 bits. ``student``: a smaller estimator that is fitted to the model's answers.
    estimator, params : str, dict
        The student.
    worse_by : float
        How much worse than the standard variant it may be on the hold-out, in units of the metric.
    budgets : BudgetSettings
        Its own.
    """

    name: typing.Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    kind: typing.Literal["int8", "student"]
    estimator: str = ""
    params: Params = msgspec.field(default_factory=dict)
    worse_by: NotNegative = 0.01
    budgets: BudgetSettings = BudgetSettings()


class TriggerSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[models.NAME.trigger]]``: when to train again by itself.

    Parameters
    ----------
    kind : str
        ``performance`` looks at `metric` of the incumbent over `window_days` of mature outcomes; ``time`` at the days
        since the last training; ``volume`` at the rows since then.
    above : float
        The trigger fires above this.
    min_outcomes, cooldown_days : int
        Too little evidence, or too soon after it last fired: it does not.
    """

    name: str
    kind: typing.Literal["performance", "time", "volume"]
    above: Number
    metric: typing.Literal["excess_log_loss", "metric"] = "excess_log_loss"
    window_days: AtLeastOne = 14
    min_outcomes: Count = 500
    cooldown_days: Count = 7
    action: typing.Literal["finetune", "train"] = "finetune"
    rollout: bool = True


class NumberSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.numbers.NUMBER]``: a number that applications post with an outcome, and that must not get worse.

    Parameters
    ----------
    direction : str
        Whether ``higher`` or ``lower`` is better.
    scale : float
        Typical size; what is posted may be 1,000 times that. It travels in the bundle: another one holds for versions
        that are trained from then on.
    margin : float
        How much worse the candidate's mean may be, in the number's own units.
    per : str
        ``answer``: the mean is over all answers, and one without this number counts as 0, as a visit without a sale
        does. ``number``: the mean is over what was posted, as for minutes or stars.
    guardrail : str
        ``prove``: promotion waits until the candidate's mean is proven not to be worse by the margin; ``watch``: it
        only rolls back.
    """

    direction: typing.Literal["higher", "lower"] = "higher"
    scale: typing.Annotated[float, msgspec.Meta(ge=1e-12, le=1e12)] = 1.0
    margin: Positive
    per: typing.Literal["answer", "number"] = "answer"
    guardrail: typing.Literal["prove", "watch"] = "prove"


class ModelSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME]``.

    Parameters
    ----------
    features : str
        Path of the feature set, from the project's folder.
    label, time : str
        Columns of the data.
    key : tuple of str
        Columns that together name a row; two rows with the same key are an error.
    classes : tuple
        Labels in order; the second is the one a binary score speaks of. Learned from the data when empty.
    estimator, params, steps : str, dict, tuple
        A scikit-learn class by its dotted name, or the steps of a Pipeline.
    holdout_days : int
        The newest days of the data, kept for the gate.
    margin : float
        How much worse a candidate may be on the devices, in units of the metric.
    metric_scale : float
        Typical size of the metric; for regressions, so that sums keep their precision.
    publish_delta : str
        ``int8`` defines a fine-tuned network as its parent plus whole steps of its weights, so that devices fetch one
        byte a weight; gates judge, and devices run, that model. For MLPClassifier and MLPRegressor.
    allow_operators : tuple of str
        ONNX operators that devices may run on top of the usual ones, such as ``Scan`` or ``com.example.Own``.
    """

    features: str
    label: str
    time: str
    task: Task = "binary"
    data: str = ""
    key: tuple[str, ...] = ()
    classes: tuple[str | int | bool, ...] = ()
    estimator: str = ""
    params: Params = msgspec.field(default_factory=dict)
    steps: tuple[StepSettings, ...] = ()
    holdout_days: AtLeastOne = 7
    metric: str = ""
    metric_scale: typing.Annotated[float, msgspec.Meta(ge=1e-12, le=1e12)] = 1.0  # as a manifest can say it
    margin: Positive = 0.02
    threshold: Ratio = 0.5
    label_window_days: Days = 1.0
    publish_delta: typing.Literal["", "int8"] = ""
    allow_operators: tuple[str, ...] = ()
    answer_order: AnswerOrder = "precomputed_first"
    default: tuple[Number, ...] = ()
    seed: Count = 0
    finetune: FinetuneSettings = FinetuneSettings()
    gate: GateSettings = GateSettings()
    precompute: PrecomputeSettings = PrecomputeSettings()
    lists: ListSettings = ListSettings()
    budgets: BudgetSettings = BudgetSettings()
    variant: tuple[VariantSettings, ...] = ()
    trigger: tuple[TriggerSettings, ...] = ()
    numbers: dict[NumberName, NumberSettings] = msgspec.field(default_factory=dict)

    @property
    def metric_name(self) -> str:
        """The metric, with the task's usual one as default."""
        return self.metric or usual_metric(self.task)
