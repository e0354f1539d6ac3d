"""What everything else stands on: values, shapes, errors. Knows nothing of layers; imports nothing of ours."""
