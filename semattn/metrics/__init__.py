"""Metrics of maps, as pure functions of tensors: faithfulness, localization, conservation, …"""
