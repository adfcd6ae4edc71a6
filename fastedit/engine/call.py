"""The name that the documents showed here; its home is `plans.call`."""

from fastedit.plans.call import ModelCall as ModelCall
