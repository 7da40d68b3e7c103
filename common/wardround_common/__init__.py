"""The shared vocabulary of coordinator and hospital: pure, without Flower, files or databases."""
