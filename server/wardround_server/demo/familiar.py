"""The familiar first script on patients' data, as it stands in many a text; the demo runs and shows it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score


def familiar(file: Path, seed: int) -> float:
    """Return the accuracy on held-out rows of a forest that was fitted to all others of one CSV file."""
    data = pd.read_csv(file)
    data = data.dropna()
    train, test = data[data["held_out"] == 0], data[data["held_out"] == 1]
    inputs = data.columns.drop(["id", "fold", "disease", "held_out"])
    model = RandomForestClassifier(n_estimators=100, random_state=seed)
    model.fit(train[inputs], train["disease"])
    return float(accuracy_score(test["disease"], model.predict(test[inputs])))
