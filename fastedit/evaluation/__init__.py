"""What a model is worth: accuracy, errors, settings of a policy, the decision step by its peers."""
