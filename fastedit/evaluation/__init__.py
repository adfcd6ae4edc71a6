"""What a model is worth: accuracy on tasks, the errors it makes, the decision step by its peers."""
