"""Targets with data: files or a hub dataset, read into labelled rows, the same from wherever they come.

`spec` is what is wanted, `files` reads files, `worker.hub_datasets` the hub, both into `gather`. `assemble`
judges the labels (`labels`), splits off what is missing (`split`), counts (`profile`) and orders the rows.

A row is normalised: Unicode NFC, runs of white space and control characters made one blank, cut at
`texts.LONGEST_TEXT` characters. A row with an empty text, or without a label, is dropped and counted. The
fingerprint is the SHA-256 over the task and the digests of each role's rows in ascending order: neither the
order of the rows nor the format of the files is in it. docs/targets.md says all of this for users.
"""
