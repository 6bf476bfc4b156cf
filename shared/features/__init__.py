"""One definition of features, used for training in the cloud and for key and model input on the device.

`kinds` says what features there are, `definition` what a set of them is, `coding` turns one raw value into its code,
`encoder` does a row, `columns` does many rows with the same coders, so that training and serving can not differ.
"""

from shared.features.definition import FeatureSet, load_feature_set
from shared.features.encoder import Encoder
from shared.features.kinds import Bucketed, Categorical, Feature, Numeric, TimePart

__all__ = [
    "Bucketed",
    "Categorical",
    "Encoder",
    "Feature",
    "FeatureSet",
    "Numeric",
    "TimePart",
    "load_feature_set",
]
