"""Which tokens a model gets wrong, before and after it was adapted, and whether that has shifted.

| module | what is in it |
|---|---|
| `held_out` | the samples, the same for both models |
| `drafted` | tokens drafted into fixed masks |
| `decoded` | tokens held while decoding, and edited later |
| `written` | such tokens as a table, whichever way they came about |
| `rules` | kinds of wrong tokens, a versioned list |
| `histograms` | positions, runs, confidence and kinds, counted per sample |
| `divergence` | distances of histograms, bootstrap and null level |
| `report` | all of it for two models' tokens |
| `survey` | asks two models and compares them: the way in |
| `plots` | the report as pictures |
"""
