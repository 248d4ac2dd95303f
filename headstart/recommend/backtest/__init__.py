"""How right the advice is: what was measured is held out, foretold, and compared. Pure functions.

| protocol | what is held out | what is asked | truth, in points |
|---|---|---|---|
| p1 | a target | the order of all checkpoints on it | measured gains |
| p2 | checkpoints, all scores but the probe | their order | mean measured gain |
| p3 | checkpoints, all but three targets | their order | mean measured gain on the others |
| p4 | a target but for 3 or 5 checkpoints | the order of the others | measured gains |
| p5 | cells | their distribution | the cell |
| p6 | a target, then measured one by one | what to finetune next, what to keep | measured, or drawn, gains |

`material` holds the evidence and cuts it, `engine` is what a protocol may ask of a fit, `served` the one that
the service answers with, `study` the tasks, `bootstrap` the intervals, `report` what `assemble` makes of it.
"""
