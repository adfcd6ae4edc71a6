"""From files and tasks to the batches of a run.

| module | what is in it |
|---|---|
| `texts` | lines and problems as examples: texts that are read or learnt |
| `documents` | examples as tokens, in whole blocks |
| `packing` | documents as rows |
| `order` | which row comes when |
| `collator` | rows as the batch of a step |
"""
