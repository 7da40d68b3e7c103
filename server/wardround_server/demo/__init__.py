"""The demonstration: four hospitals of the UCI Heart Disease data, each with table, policy and keys."""
