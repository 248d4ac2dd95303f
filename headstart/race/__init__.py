"""Races: the best start on a target among a few candidates, found with little finetuning. Pure."""
