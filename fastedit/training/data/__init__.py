"""From files and tasks to the batches of a run.

| module | what is in it |
|---|---|
| `texts` | files and tasks as examples, one after another |
| `lines` | a line as texts that are learnt or only read |
| `problems` | the same of a problem of a task |
| `documents` | examples as tokens, in whole blocks |
| `packing` | documents as rows |
| `order` | which row comes when |
| `collator` | rows as the batch of a step |
| `edit_rows` | drafts and their targets as a row that teaches edits |
"""
