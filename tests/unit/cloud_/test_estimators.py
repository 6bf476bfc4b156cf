"""Estimators: built as ``covey.toml`` says, exported with parity, or refused in a sentence that says why."""

from __future__ import annotations

import pathlib
import typing

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline

from cloud.config import FinetuneSettings, ModelSettings, Project
from cloud.store.store import Store
from cloud.training import estimator, fit
from shared.errors import ConfigError, CoveyError, DataError
from tests.unit.cloud_ import builders

_SCALED = 'steps = [{ estimator = "sklearn.preprocessing.StandardScaler" }, { estimator = "%s" }]'


def settings(name: str = "", **more: typing.Any) -> ModelSettings:
    """Settings of a model."""
    return ModelSettings(features="f", label="sold", time="at", estimator=name, **more)


# ---- building


def test_the_seed_of_the_model_is_the_random_state_unless_one_is_given() -> None:
    name = "sklearn.linear_model.SGDClassifier"
    log_loss = {"loss": "log_loss"}
    assert estimator.build(settings(name, params=log_loss, seed=5), "m").random_state == 5
    assert estimator.build(settings(name, params=log_loss | {"random_state": 1}, seed=5), "m").random_state == 1


def test_lists_of_toml_become_tuples() -> None:
    name = "sklearn.neural_network.MLPClassifier"
    assert estimator.build(settings(name, params={"hidden_layer_sizes": [3, 2]}), "m").hidden_layer_sizes == (3, 2)


@pytest.mark.parametrize(
    ("name", "params", "part"),
    [
        ("sklearn.linear_model.LogisticRegresion", {}, "can not be imported"),
        ("sklearn.linear_model", {}, "is not a scikit-learn estimator"),
        ("LogisticRegression", {}, "can not be imported"),
        ("", {}, "can not be imported"),
        ("nowhere.at.All", {}, "can not be imported"),
        ("os.system", {}, "is not a scikit-learn estimator"),
        ("builtins.dict", {}, "is not a scikit-learn estimator"),
        ("sklearn.linear_model.LogisticRegression", {"c": 1}, "Known are: C, "),
        ("sklearn.linear_model.Ridge", {}, "does not do the task 'binary'"),
        ("sklearn.preprocessing.StandardScaler", {}, "does not do the task 'binary'"),
        ("sklearn.linear_model.SGDClassifier", {}, "gives no probabilities"),
        ("sklearn.svm.LinearSVC", {}, "gives no probabilities"),
        ("sklearn.pipeline.Pipeline", {}, "missing 1 required positional argument"),
    ],
)
def test_an_estimator_that_can_not_be_built_is_refused_with_its_place(
    name: str, params: dict[str, typing.Any], part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        estimator.build(settings(name, params=params), "m")
    assert part in str(caught.value)
    assert str(caught.value).startswith("models.m.")


def test_a_bad_step_is_named_by_its_number() -> None:
    steps = ({"estimator": "sklearn.preprocessing.StandardScaler"}, {"estimator": "nowhere.X"})
    model = ModelSettings(features="f", label="l", time="t", steps=_steps(*steps))
    with pytest.raises(ConfigError, match=r"models\.m\.steps\[1\]"):
        estimator.build(model, "m")


def _steps(*steps: dict[str, typing.Any]) -> typing.Any:
    from cloud.config import StepSettings

    return tuple(StepSettings(**step) for step in steps)


# ---- fitting

_RNG = np.random.default_rng(1)
ROWS = fit.Rows(_RNG.normal(size=(60, 3)).astype(np.float32), np.arange(60) % 2)


@pytest.mark.parametrize(
    "params", [{"C": -1.0}, {"C": "much"}, {"solver": "none of these"}, {"max_iter": 0.5}], ids=str
)
def test_a_parameter_that_makes_no_sense_is_a_data_error_and_no_traceback(params: dict[str, typing.Any]) -> None:
    with pytest.raises(DataError, match="can not be fitted"):
        fit.fit_stateless(LogisticRegression(**params), ROWS)


def test_steps_that_do_not_fit_together_are_a_data_error() -> None:
    model = Pipeline([("a", LogisticRegression()), ("b", LogisticRegression())])
    with pytest.raises(DataError, match="can not be fitted"):
        fit.fit_stateless(model, ROWS)


def test_a_bounded_number_of_iterations_is_no_warning() -> None:
    fit.fit_stateless(LogisticRegression(max_iter=1), ROWS)


def test_continuing_leaves_the_parent_as_it_was_and_is_repeatable() -> None:
    base = fit.fit_stateless(SGDClassifier(loss="log_loss", random_state=0), ROWS)
    before = base.coef_.copy()
    new = fit.Rows(ROWS.inputs + 1, 1 - ROWS.labels)
    made = [fit.fit_stateful(base, new, ROWS, FinetuneSettings(epochs=2), seed=3, n_classes=2) for _ in range(2)]
    assert (base.coef_ == before).all()
    assert (made[0].coef_ == made[1].coef_).all()
    assert (made[0].coef_ != before).any()


def test_a_last_batch_that_is_small_is_no_warning() -> None:
    base = MLPClassifier(hidden_layer_sizes=(2,), max_iter=1, batch_size=30, random_state=0)
    fit.fit_stateless(base, ROWS)
    learned = fit.fit_stateful(
        base, ROWS.take(np.arange(31)), ROWS, FinetuneSettings(batch_size=30), seed=0, n_classes=2
    )
    assert any((a != b).any() for a, b in zip(learned.coefs_, base.coefs_, strict=True))


class Counting(SGDClassifier):
    """Counts what it is shown."""

    def partial_fit(self, X: typing.Any, y: typing.Any, **more: typing.Any) -> typing.Any:  # noqa: N803
        self.shown_ = [*getattr(self, "shown_", []), len(y)]
        return super().partial_fit(X, y, **more)


@pytest.mark.parametrize(
    ("replay_ratio", "n_old", "total"), [(0.0, 60, 60), (1.0, 60, 120), (0.5, 60, 90), (3.0, 60, 120), (1.0, 0, 60)]
)
def test_old_rows_are_replayed_in_the_ratio_that_was_asked_for(replay_ratio: float, n_old: int, total: int) -> None:
    base = Counting(loss="log_loss").fit(ROWS.inputs, ROWS.labels)
    base.shown_ = []
    old = ROWS.take(np.arange(n_old))
    wanted = FinetuneSettings(epochs=2, replay_ratio=replay_ratio, batch_size=25)
    learned = fit.fit_stateful(base, ROWS, old, wanted, seed=0, n_classes=2)
    assert sum(learned.shown_) == 2 * total
    assert max(learned.shown_) == 25


@pytest.mark.parametrize(
    "name",
    ["sklearn.ensemble.HistGradientBoostingClassifier", "sklearn.ensemble.RandomForestClassifier",
     "sklearn.linear_model.LogisticRegression"],
)  # fmt: skip
def test_an_estimator_without_partial_fit_can_not_be_fine_tuned_whatever_warm_start_says(name: str) -> None:
    base = estimator.build(settings(name, params={"warm_start": True}), "m")
    assert not estimator.learns_on(base)
    with pytest.raises(ConfigError, match="has no partial_fit and can not be fine-tuned"):
        fit.fit_stateful(base, ROWS, ROWS, FinetuneSettings(), seed=0, n_classes=2)


# ---- through the whole pipeline: trained, exported, judged


def trained(folder: pathlib.Path, model: str, rows: list[builders.Row], *, more: str = "") -> typing.Any:
    """Train a version of a new project."""
    project = builders.make_project(folder / "p", model=model, more=more)
    with builders.opened(project) as store:
        builders.add(project, store, rows)
        return builders.fit(project, store)


_CLASSIFIERS = {
    "logistic": builders.LOGISTIC,
    "sgd": builders.SGD,
    "forest": 'estimator = "sklearn.ensemble.RandomForestClassifier"\nparams = { n_estimators = 5, max_depth = 4 }',
    "hgb": 'estimator = "sklearn.ensemble.HistGradientBoostingClassifier"\nparams = { max_iter = 5 }',
    "mlp": 'estimator = "sklearn.neural_network.MLPClassifier"\nparams = { hidden_layer_sizes = [4], max_iter = 20 }',
    "scaled logistic": _SCALED % "sklearn.linear_model.LogisticRegression",
    "naive bayes": 'estimator = "sklearn.naive_bayes.GaussianNB"',
    "tree": 'estimator = "sklearn.tree.DecisionTreeClassifier"\nparams = { max_depth = 3 }',
}


@pytest.mark.parametrize("model", _CLASSIFIERS.values(), ids=_CLASSIFIERS)
def test_a_classifier_is_exported_and_says_what_the_trained_one_says(tmp_path: pathlib.Path, model: str) -> None:
    made = trained(tmp_path, model, builders.sales(), more=builders.EASY_GATES)
    assert made.version == "v1"
    (parity,) = [gate for gate in made.gates if gate.name == "parity"]
    assert parity.passed
    assert parity.numbers["rows"] == 10_000


_THREE = [row | {"sold": str(row["colour"]) + "!"} for row in builders.sales()]
_AMOUNT = [row | {"sold": 3.5 + len(str(row["colour"])) * float(str(row["price"] or 1))} for row in builders.sales()]


@pytest.mark.parametrize(
    "model", [builders.LOGISTIC, 'estimator = "sklearn.ensemble.RandomForestClassifier"\nparams = { n_estimators = 4 }']
)
def test_a_model_of_three_classes_answers_with_three_numbers(tmp_path: pathlib.Path, model: str) -> None:
    made = trained(tmp_path, f'{model}\ntask = "multiclass"', _THREE)
    assert made.sealed.manifest.n_outputs == 3
    assert made.sealed.manifest.classes == ("blue!", "green!", "red!")


@pytest.mark.parametrize(
    "model",
    ['estimator = "sklearn.linear_model.Ridge"', 'estimator = "sklearn.ensemble.HistGradientBoostingRegressor"',
     'estimator = "sklearn.neural_network.MLPRegressor"\nparams = { hidden_layer_sizes = [4] }',
     _SCALED % "sklearn.linear_model.Ridge"],
)  # fmt: skip
def test_a_regression_answers_with_one_number(tmp_path: pathlib.Path, model: str) -> None:
    made = trained(tmp_path, f'{model}\ntask = "regression"', _AMOUNT, more="gate = { worse_by = 1e6 }")
    assert made.sealed.manifest.n_outputs == 1
    assert made.sealed.manifest.metric == "squared_error"


@pytest.mark.parametrize("name", ["semi_supervised.LabelSpreading", "naive_bayes.CategoricalNB"])
def test_what_can_not_be_made_is_refused_with_a_sentence_and_uses_its_number_up(
    empty: Project, empty_store: Store, name: str
) -> None:
    project = builders.write(empty, "covey.toml", builders.config(model=f'estimator = "sklearn.{name}"'))
    builders.add(project, empty_store, builders.sales(8, 10))
    with pytest.raises(CoveyError) as caught:
        builders.fit(project, empty_store)
    assert 20 < len(str(caught.value)) < 600
    assert empty_store.models.get("sales", "v1")["status"] in ("failed", "refused")
    with pytest.raises(CoveyError):
        builders.fit(project, empty_store)
    assert [row["version"] for row in empty_store.models.all("sales")] == ["v1", "v2"]


# ---- classes that training can not see


@pytest.mark.parametrize("model", _CLASSIFIERS.values(), ids=_CLASSIFIERS)
def test_rows_of_one_class_only_are_refused(tmp_path: pathlib.Path, model: str) -> None:
    rows = [row | {"sold": 1} for row in builders.sales(10)]
    with pytest.raises(DataError, match="two are needed"):
        trained(tmp_path, model, rows)
    with pytest.raises(DataError, match="no row to learn from has the class 0"):
        trained(tmp_path / "named", f"{model}\nclasses = [0, 1]", rows)


def test_a_class_that_appears_only_in_the_hold_out_is_refused(empty: Project, empty_store: Store) -> None:
    rows = builders.sales(10)
    for row in rows[-5:]:
        row["sold"] = 2
    builders.add(empty, empty_store, rows)
    with pytest.raises(DataError, match="2 is not one of"):
        builders.fit(empty, empty_store)
