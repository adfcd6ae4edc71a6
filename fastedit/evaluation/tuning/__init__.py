"""Which settings of a policy are worth it: right answers against forwards, on a user's own data.

| module | what is in it |
|---|---|
| `questions` | what is asked, and which answers are right |
| `space` | the settings of a policy that a search may try |
| `pareto` | which settings no other one beats |
| `measure` | one setting on some of the questions |
| `record` | what has been measured, in a folder that a later run goes on in |
| `search` | the search, and its front on questions that it was not chosen on: the way in |
| `plot` | the front as a picture |
"""
