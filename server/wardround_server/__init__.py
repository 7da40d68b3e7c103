"""The coordinator's side: conducts studies over Flower and publishes what they found."""
