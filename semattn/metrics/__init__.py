"""Metrics of maps: faithfulness, localization, randomization. Pure functions of tensors."""
