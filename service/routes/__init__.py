"""One file per noun of the wire; each exports `router`."""
